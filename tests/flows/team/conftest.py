"""A team without compose: a Prefect server, `pippa worker`, an object store, and a trainer that takes its time."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import docker
import pytest
from docker.models.containers import Container

from tests.conftest import bucket_of_its_own
from trainer import importers
from trainer.store import snapshots
from trainer.store.object_store import ObjectStore
from trainer.store.s3 import S3Store

SUPPORT = Path(__file__).parents[2] / "support"
OVERRIDES = {"dataset_path": ["synthetic.PickNPlace"], "base_model_path": "a-model"}


@dataclass
class Team:
    """The server, and what talks to it."""

    folder: Path
    environ: dict[str, str]
    docker: docker.DockerClient
    store: ObjectStore
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _ends: dict[str, tuple[threading.Thread, list[int]]] = field(default_factory=dict)

    def spawn(self, name: str, *argv: str, **environ: str) -> subprocess.Popen[bytes]:
        """``pippa …`` in the background, its words in ``<name>.log``."""
        with self.log(name).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "flows.cli", *argv],
                cwd=self.folder,
                env={**self.environ, **environ},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def words(self, name: str) -> str:
        return self.log(name).read_text()

    def worker(self, name: str = "worker") -> subprocess.Popen[bytes]:
        """A worker that takes runs."""
        process = self.spawn(name, "worker", "--name", "the-worker")
        self.until(lambda: "started!" in self.words(name) or process.poll() is not None, lambda: self.words(name))
        assert process.poll() is None, self.words(name)
        return process

    def until(
        self, condition: Callable[[], Any], explain: Callable[[], object] = lambda: "", seconds: float = 90
    ) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, explain()
            time.sleep(0.2)

    def start(self, deployment: str, parameters: Mapping[str, Any]) -> UUID:
        """A flow run, as a person starts it in the pages."""
        with self.api() as client:
            found = client.read_deployment_by_name(deployment)
            return client.create_flow_run_from_deployment(found.id, parameters=dict(parameters)).id

    def train(self, preset: str = "overfit-demo") -> UUID:
        return self.start(f"train/{preset}", {"overrides": OVERRIDES})

    def run(self, flow_run_id: UUID) -> Any:
        with self.api() as client:
            return client.read_flow_run(flow_run_id)

    def state(self, flow_run_id: UUID) -> str:
        return str(self.run(flow_run_id).state_name)

    def cancel(self, flow_run_id: UUID) -> None:
        from prefect.states import Cancelling

        with self.api() as client:
            client.set_flow_run_state(flow_run_id, Cancelling())

    def reach(self, flow_run_id: UUID, state: str, seconds: float = 90) -> None:
        self.until(
            lambda: self.state(flow_run_id) == state,
            lambda: (self.run(flow_run_id).state, self.words("worker")),
            seconds,
        )

    def api(self) -> Any:
        from prefect.client.orchestration import get_client

        return get_client(sync_client=True)

    def containers(self, run_id: str) -> list[Container]:
        return self.docker.containers.list(all=True, filters={"label": f"pippa.run-id={run_id}"}, ignore_removed=True)

    def training(self, flow_run_id: UUID) -> Container:
        """The container of a flow run's training, once it trains."""
        self.until(
            lambda: any(c.status == "running" for c in self.containers(self.run(flow_run_id).name)),
            lambda: (self.run(flow_run_id).state, self.words("worker")),
        )
        [container] = self.containers(self.run(flow_run_id).name)
        self.until(lambda: b"progress" in container.logs(), container.logs)
        codes: list[int] = []
        waiting = threading.Thread(target=lambda: codes.append(container.wait(timeout=600)["StatusCode"]), daemon=True)
        waiting.start()
        self._ends[str(container.id)] = waiting, codes
        return container

    def exit_code(self, container: Container) -> int | None:
        """How a container that ``training`` returned ended, also when it is gone by now."""
        waiting, codes = self._ends[str(container.id)]
        waiting.join(10)
        return codes[0] if codes else None

    def flow_processes(self, flow_run_id: UUID) -> list[int]:
        """The processes that carry out a flow run."""
        wanted = f"PREFECT__FLOW_RUN_ID={flow_run_id}".encode()
        found = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            try:
                if wanted in environ.read_bytes().split(b"\0"):
                    found.append(int(environ.parent.name))
            except OSError:
                continue
        return found


@pytest.fixture(scope="session")
def patient_image(docker_client: docker.DockerClient) -> Iterator[str]:
    """The tag of the image with the trainer that takes its time."""
    tag = f"pippa-test/patient:{secrets.token_hex(4)}"
    arguments = {name: os.environ[name] for name in ("PYTHON_IMAGE",) if name in os.environ}
    docker_client.images.build(path=str(SUPPORT / "patient"), tag=tag, rm=True, buildargs=arguments)
    yield tag
    docker_client.images.remove(tag, force=True)


@pytest.fixture(scope="module")
def team(docker_client, patient_image, prefect_environ, s3_server, tmp_path_factory) -> Iterator[Team]:
    """What the tests of a module need, in a store of their own. Start a worker where one is needed."""
    folder = tmp_path_factory.mktemp("team")
    (folder / "password").write_text(prefect_environ["PREFECT_API_AUTH_STRING"] + "\n")
    with bucket_of_its_own(s3_server) as settings:
        store = S3Store(settings)
        environ = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
            **{name: value for name, value in os.environ.items() if name.startswith("DOCKER_")},
            **settings.to_environ(),
            "PYTHONPATH": str(SUPPORT.parents[1]),
            "PIPPA_HOME": str(folder / "home"),
            "PREFECT_API_URL": prefect_environ["PREFECT_API_URL"],
            "PREFECT_API_AUTH_STRING_FILE": str(folder / "password"),
            "PIPPA_TRAINER_IMAGE": patient_image,
            "PIPPA_LAUNCHER": "docker",
            "PIPPA_GPUS": "none",
            "PIPPA_STOP_GRACE": "20",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "WANDB_MODE": "offline",
        }
        team = Team(folder, environ, docker_client, store)
        importers.dataset(store, "synthetic.PickNPlace", folder / "tmp")
        model = folder / "a-model"
        model.mkdir()
        (model / "config.json").write_text("{}")
        snapshots.push(store, model, "model", "a-model")
        with pytest.MonkeyPatch.context() as monkeypatch:
            for name, value in prefect_environ.items():
                monkeypatch.setenv(name, value)
            from prefect.context import refresh_global_settings_context

            refresh_global_settings_context()
            yield team
        for process in reversed(team.processes):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        for container in docker_client.containers.list(all=True, filters={"ancestor": patient_image}):
            container.remove(force=True, v=True)
