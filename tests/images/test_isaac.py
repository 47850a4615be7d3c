"""The images of upstream's engine, built from the stand-in repository, and runs in them against a real object store."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.support.isaac.expected import STEPS, check_run, events_of, flags_of, push_base_model
from tests.support.isaac.images import build_image, remove_image
from tests.support.isaac.repository import BRANCH
from tests.support.waiting import PATIENCE, until
from trainer import importers
from trainer.config.run_spec import Engine
from trainer.config.settings import S3Settings
from trainer.store import registry, runs
from trainer.store.object_store import ObjectStore
from trainer.store.s3 import S3Store

if TYPE_CHECKING:
    import docker

pytestmark = [pytest.mark.docker, pytest.mark.slow]
N15_SCRIPT = "/opt/isaac-gr00t/scripts/gr00t_finetune.py"
SCRIPTS: dict[Engine, str] = {
    "isaac-uv": N15_SCRIPT,
    "isaac-conda": N15_SCRIPT,
    "isaac-n17": "/opt/isaac-gr00t/gr00t/experiment/launch_finetune.py",
}
TAG = f"pippa-test/{{}}:standin-{secrets.token_hex(3)}"  # not that of others who run these tests beside


@pytest.fixture(scope="module", params=["isaac-uv", "isaac-conda", "isaac-n17"])
def built(request, docker_client, tmp_path_factory) -> Iterator[tuple[Engine, str]]:
    """The engine, and the commit its image was built from."""
    if shutil.which("docker") is None:
        pytest.fail("a Docker daemon answers, but there is no docker command, which building needs")
    try:
        yield request.param, build_image(request.param, tmp_path_factory.mktemp("upstream"), TAG.format(request.param))
    finally:
        remove_image(TAG.format(request.param))


@pytest.fixture
def engine(built) -> Engine:
    return built[0]


@pytest.fixture(scope="module")
def bucket(built, buckets) -> Iterator[S3Settings]:
    with buckets.one() as settings:
        yield settings


@pytest.fixture(scope="module")
def store(bucket, tmp_path_factory) -> ObjectStore:
    store = S3Store(bucket)
    push_base_model(store, tmp_path_factory.mktemp("models"))
    return store


class Container:
    """One ``trainer`` command in an image, removed at the end."""

    def __init__(self, client: docker.DockerClient, engine: Engine, bucket: S3Settings, *command: str, **environ: str):
        self.container = client.containers.run(
            TAG.format(engine),
            ["trainer", *command],
            environment={**bucket.to_environ(), "WANDB_MODE": "offline", **environ},
            network_mode="host",
            detach=True,
        )

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        self.container.remove(force=True)

    def finish(self) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        code = self.container.wait(timeout=PATIENCE)["StatusCode"]
        out, err = (self.container.logs(stdout=which, stderr=not which).decode() for which in (True, False))
        return code, out, err


def test_a_run_in_the_image_is_like_a_native_one(docker_client, engine, bucket, store, tmp_path):
    with Container(docker_client, engine, bucket, "run", *flags_of(engine)) as run:
        code, out, err = run.finish()
    assert code == 0, err
    run_id = check_run(store, events_of(out), engine, tmp_path)
    spec = runs.read_spec(store, run_id)
    assert spec.git_sha == "0" * 40
    assert f"/opt/isaac/bin/python {SCRIPTS[engine]} --" in err


def test_a_stopped_container_leaves_a_run_that_another_continues(docker_client, engine, bucket, store):
    with Container(docker_client, engine, bucket, "run", *flags_of(engine), STANDIN_HANGS_AT="15") as run:
        before = {entry.run_id for entry in registry.list_checkpoints(store)}

        def registered() -> set[str]:
            return {entry.run_id for entry in registry.list_checkpoints(store)} - before

        (run_id,) = until(registered, lambda: run.container.logs().decode())
        run.container.stop(timeout=int(PATIENCE))
        assert run.finish()[0] == 143  # tini passes the signal on
    state = runs.read_state(store, run_id)
    assert state is not None and state.status == "stopped"
    assert [entry.step for entry in registry.list_checkpoints(store, run_id)] == STEPS[:1]

    with Container(docker_client, engine, bucket, "run", "--run-id", run_id) as run:
        code, out, err = run.finish()
    assert code == 0, err
    assert [event.step for event in events_of(out) if event.event == "checkpoint"] == STEPS[1:]
    state = runs.read_state(store, run_id)
    assert state is not None and state.status == "done"


def test_what_takes_torch_is_left_to_the_trainer_image(docker_client, engine, bucket, store):
    with Container(docker_client, engine, bucket, "prepare", "base-model", "tiny") as prepare:
        code, _, err = prepare.finish()
    assert code == 1
    assert "takes torch, which is not installed here" in err and "trainer prepare base-model tiny" in err


def test_the_image_is_what_it_says(docker_client, built):
    engine, commit = built
    image = docker_client.images.get(TAG.format(engine))
    assert image.attrs["Config"]["User"] == "1000"
    assert image.attrs["Config"]["Entrypoint"] == ["tini", "--"]
    labels = image.labels
    assert labels["org.opencontainers.image.revision"] == "0" * 40
    assert labels["org.opencontainers.image.title"].endswith(engine)
    assert labels["pippa.isaac.ref"] == BRANCH

    def printed(script: str) -> str:
        return docker_client.containers.run(image, ["sh", "-ec", script], remove=True).decode()

    assert printed("cat /opt/isaac-gr00t/ISAAC_COMMIT").strip() == commit
    assert printed("ls -A /opt/isaac-gr00t | grep -cE 'demo_data|[.]git$' || true").strip() == "0"
    assert printed("touch /var/lib/pippa/cache/x /var/lib/pippa/runs/x; id -un").strip() == "pippa"
    assert printed("command -v torch cc gcc || true; /opt/pippa/bin/python -c 'import torch' 2>&1 || true").startswith(
        "Traceback"
    )
    doctor = printed("trainer doctor")
    assert SCRIPTS[engine] in doctor and "Isaac-GR00T can't train" in doctor


@pytest.mark.parametrize("built", ["isaac-uv", "isaac-n17"], indirect=True)
def test_pippa_train_launches_it(docker_client, engine, bucket, store, tmp_path):
    importers.dataset(store, importers.SYNTHETIC, tmp_path)  # else the native image would make it
    preset, *flags = flags_of(engine)
    environ = {
        **os.environ,
        **bucket.to_environ(),
        "PIPPA_HOME": str(tmp_path / "home"),
        f"PIPPA_{engine.replace('-', '_').upper()}_IMAGE": TAG.format(engine),
        "PIPPA_GPUS": "none",
        "WANDB_MODE": "offline",
    }
    command = [
        sys.executable,
        "-m",
        "flows.cli",
        "train",
        preset,
        "--launcher",
        "docker",
        "--engine",
        engine,
        *flags,
    ]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    newest = registry.resolve(store, f"{preset}/latest")
    assert (newest.step, newest.spec.engine) == (30, engine)
    assert newest.spec.image == docker_client.images.get(TAG.format(engine)).id
    assert newest.metrics["open_loop_mse"] == pytest.approx(0.03)
    left = docker_client.containers.list(all=True, filters={"label": f"pippa.run-id={newest.run_id}"})
    assert not left
