"""A training's container lives on while what held its GPU for it is gone: its process, its lock, its lease, Prefect."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from docker.models.containers import Container

from flows.embedded.prefect import server_environment
from flows.launch import gpu_locks, machine
from flows.settings import prefect_environment
from tests.flows.conftest import ROOT, SERVER
from tests.flows.launch.conftest import bench, environ, trainer_image  # noqa: F401 - fixtures
from tests.support.waiting import PATIENCE, until
from trainer.events import ProgressEvent

pytestmark = pytest.mark.docker


@pytest.fixture
def left_alone(docker_client, trainer_image) -> Iterator[Callable[[str], Container]]:  # noqa: F811
    """Starts the container of a training on GPU 0 whose process was killed; this machine may have none."""
    made: list[Container] = []

    def start(run_id: str) -> Container:
        labels = {"pippa.role": "training", "pippa.run-id": run_id, "pippa.gpus": "0"}
        made.append(
            docker_client.containers.run(
                trainer_image,
                ["trainer", json.dumps({"count": 1, "wait": True})],
                name=f"pippa-{run_id}",
                labels=labels,
                detach=True,
            )
        )
        until(lambda: b"progress" in made[-1].logs())
        return made[-1]

    yield start
    for each in made:
        each.remove(force=True, v=True)


def a_run() -> str:
    return f"gpu-{secrets.token_hex(3)}-20260101-000000-abcd"


def test_what_a_container_computes_on_is_what_its_run_holds(bench):  # noqa: F811
    bench.environ["PIPPA_GPUS"] = "none"
    training = bench.start(count=1, wait=True, saves="until told")
    assert isinstance(training.next_event(PATIENCE), ProgressEvent) and machine.trains_on([bench.run_id]) == []
    # One that is being stopped is not joined, and is waited for.
    bench.container().kill(signal="SIGTERM")
    assert machine.trains_on([bench.run_id]) is None
    training.kill()


def test_a_bare_machine_gives_the_gpu_of_a_killed_training_to_nobody_but_it(left_alone, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_locks, "ASK_SECONDS", 0.1)
    run_id = a_run()
    container = left_alone(run_id)
    with gpu_locks.held(tmp_path, "other", ["0", "1"], 1, 1, pytest.fail) as gpus:
        assert gpus == ["1"]
    with gpu_locks.held(tmp_path, run_id, ["0"], 1, 1, pytest.fail) as gpus:
        assert gpus == ["0"]
    with gpu_locks.held(tmp_path, "shares", ["0"], 1, 2, pytest.fail) as gpus:
        assert gpus == ["0"]
    said: list[str] = []
    got = threading.Event()

    def wait() -> None:
        with gpu_locks.held(tmp_path, "waits", ["0"], 1, 1, said.append):
            got.set()

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    until(lambda: said)
    assert f"{run_id} (container pippa-{run_id})" in said[0] and not got.is_set()
    container.stop(timeout=int(PATIENCE))
    assert got.wait(PATIENCE)
    waiting.join(PATIENCE)


@contextmanager
def server(home: Path, monkeypatch: pytest.MonkeyPatch, **variables: str) -> Generator[None]:
    """A Prefect server with its database in ``home``, whose end is SIGKILL; this process uses it."""
    variables = server_environment(home, {"PATH": os.environ["PATH"]}) | variables
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        try:
            assert process.stdout
            auth, url = sorted(process.stdout.readline().decode().split(), key=lambda word: word.startswith("http"))
            found = {**prefect_environment(home, {}), "PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": auth}
            for name, value in found.items():
                monkeypatch.setenv(name, value)
            from prefect.context import refresh_global_settings_context

            refresh_global_settings_context()
            yield
        finally:
            process.kill()


@pytest.mark.slow
def test_a_prefect_that_forgot_its_leases_keeps_no_training_from_its_own_gpu(
    left_alone, made_prefect, tmp_path, monkeypatch
):
    """The flow's process and Prefect are killed, the container trains on; then both are there again."""
    from prefect.client.orchestration import get_client
    from prefect.states import Running

    from flows.orchestration import gpu_leases
    from tests.flows.orchestration.test_gpu_leases import held_and_left, idle, taken

    monkeypatch.setattr(gpu_leases, "RENEW_SECONDS", 0.5)
    monkeypatch.setattr(gpu_leases, "ASK_SECONDS", 0.2)
    shutil.copytree(made_prefect, tmp_path / "prefect")
    run_id, here = a_run(), f"m-{secrets.token_hex(3)}"
    limit = f"gpu-0@{here}"
    container = left_alone(run_id)
    with server(tmp_path, monkeypatch), get_client(sync_client=True) as client:
        flow_run_id = client.create_flow_run(idle, name=run_id, state=Running()).id
        lease = held_and_left(client, flow_run_id, here, limit, ["0"])
        assert taken(client, limit) == 1
    shutil.rmtree(tmp_path / "prefect/concurrency_leases")
    with server(tmp_path, monkeypatch), get_client(sync_client=True) as client:
        # The database counts it, and no lease will ever give it back.
        assert taken(client, limit) == 1
        said: list[str] = []
        other = client.create_flow_run(idle, name=a_run(), state=Running()).id
        got = threading.Event()

        def wait() -> None:
            with gpu_leases.held(other, here, ["0"], 1, 1, said.append):
                got.set()

        waiting = threading.Thread(target=wait, daemon=True)
        with gpu_leases.held(flow_run_id, here, ["0"], 1, 1, pytest.fail) as gpus:
            assert gpus == ["0"]
            waiting.start()
            until(lambda: said)
            assert run_id in said[0]

            def found() -> str:
                return str(client.read_flow_run(flow_run_id).labels[gpu_leases.LEASE])

            until(lambda: found() not in ("", str(lease)))
            assert taken(client, limit) == 1 and gpu_leases.leaked(client, here) == []
        # Its lease is given back, and the container computes on.
        until(lambda: taken(client, limit) == 0)
        assert not got.is_set()
        container.stop(timeout=int(PATIENCE))
        assert got.wait(PATIENCE)
        waiting.join(PATIENCE)


@pytest.mark.slow
def test_a_server_that_starts_again_leaves_each_gpu_to_its_training(made_prefect, tmp_path, monkeypatch):
    """It was away for longer than a lease lasts: a training that lived keeps its GPU, one that died has it at once."""
    from prefect.client.orchestration import get_client
    from prefect.states import Running

    from flows.orchestration import gpu_leases, lease_files
    from tests.flows.orchestration.test_gpu_leases import held_and_left, idle, taken

    monkeypatch.setattr(gpu_leases, "ASK_SECONDS", 0.2)
    # Nobody renews what the living one holds here, and on a busy machine a server takes long to start.
    monkeypatch.setattr(lease_files, "SECONDS", PATIENCE)
    shutil.copytree(made_prefect, tmp_path / "prefect")
    here = f"m-{secrets.token_hex(3)}"
    limits = [f"gpu-{gpu}@{here}" for gpu in "01"]
    looks_often = {"PREFECT_SERVER_SERVICES_REPOSSESSOR_LOOP_SECONDS": "1"}
    with server(tmp_path, monkeypatch), get_client(sync_client=True) as client:
        lives, died, waits = (client.create_flow_run(idle, name=a_run(), state=Running()).id for _ in range(3))
        lease, _ = (
            held_and_left(client, run, here, limit, [gpu])
            for run, limit, gpu in zip((lives, died), limits, "01", strict=True)
        )
    for file in (tmp_path / "prefect/concurrency_leases").glob("*-*.json"):
        file.write_text(json.dumps({**json.loads(file.read_text()), "expiration": "2026-01-01T00:00:00+00:00"}))
    index = tmp_path / "prefect/concurrency_leases/expirations.json"
    index.write_text(json.dumps(dict.fromkeys(json.loads(index.read_text()), "2026-01-01T00:00:00+00:00")))
    lease_files.renew(tmp_path / "prefect")
    with server(tmp_path, monkeypatch, **looks_often), get_client(sync_client=True) as client:
        said: list[str] = []
        got: list[list[str]] = []

        def wait() -> None:
            with gpu_leases.held(waits, here, ["0", "1"], 1, 1, said.append) as gpus:
                got.append(gpus)

        waiting = threading.Thread(target=wait, daemon=True)
        waiting.start()
        until(lambda: said)
        with gpu_leases.held(died, here, ["0", "1"], 1, 1, pytest.fail) as gpus:
            assert gpus == ["1"]
            time.sleep(3.0)  # the server has looked for leases that have ended
            client.renew_concurrency_lease(lease, gpu_leases.LEASE_SECONDS)
            assert [taken(client, limit) for limit in limits] == [1, 1] and got == []
        waiting.join(PATIENCE)
        assert got == [["1"]]
