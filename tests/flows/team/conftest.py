"""A team without compose: a Prefect server, `pippa worker`, an object store, and a trainer that takes its time."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import docker
import docker.errors
import pytest
from docker.models.containers import Container
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import StateType
from prefect.states import Crashed

from flows.orchestration import gpu_leases
from tests.support.trusted import trusted
from tests.support.waiting import PATIENCE, until
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
    workers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
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

    def worker(self, name: str) -> subprocess.Popen[bytes]:
        """A worker that takes runs; ``name`` is its log's."""
        process = self.workers[name] = self.spawn(name, "worker", "--name", "the-worker")
        until(lambda: "started!" in self.words(name), lambda: self.words(name), alive=lambda: process.poll() is None)
        return process

    def running_workers(self) -> list[subprocess.Popen[bytes]]:
        return [process for process in self.workers.values() if process.poll() is None]

    def workers_words(self) -> str:
        return "\n".join(self.words(name) for name in self.workers)

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

    def logged(self, flow_run_id: UUID) -> list[str]:
        """The lines that the flow run wrote into Prefect's log, as far as they are there."""
        with self.api() as client:
            of_this = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run_id]))
            return [line.message for line in client.read_logs(of_this)]

    def cancel(self, flow_run_id: UUID) -> None:
        from prefect.states import Cancelling

        with self.api() as client:
            client.set_flow_run_state(flow_run_id, Cancelling())

    def reach(self, flow_run_id: UUID, state: str) -> None:
        until(
            lambda: self.state(flow_run_id) == state,
            lambda: (self.run(flow_run_id).state, self.workers_words()),
        )

    def api(self) -> Any:
        from prefect.client.orchestration import get_client

        return get_client(sync_client=True, httpx_settings={"verify": trusted()})

    def containers(self, run_id: str) -> list[Container]:
        return self.docker.containers.list(all=True, filters={"label": f"pippa.run-id={run_id}"}, ignore_removed=True)

    def training(self, flow_run_id: UUID) -> Container:
        """The container of a flow run's training, once it trains."""
        until(
            lambda: any(c.status == "running" for c in self.containers(self.run(flow_run_id).name)),
            lambda: (self.run(flow_run_id).state, self.workers_words()),
        )
        [container] = self.containers(self.run(flow_run_id).name)
        until(lambda: b"progress" in container.logs(), container.logs)
        codes: list[int] = []

        def wait() -> None:
            codes.append(container.wait(timeout=2 * PATIENCE)["StatusCode"])

        waiting = threading.Thread(target=wait, daemon=True)
        waiting.start()
        self._ends[str(container.id)] = waiting, codes
        return container

    def exit_code(self, container: Container) -> int | None:
        """How a container that ``training`` returned ended, also when it is gone by now."""
        waiting, codes = self._ends[str(container.id)]
        waiting.join(PATIENCE)
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

    def clean(self) -> None:
        """End what a test left, in whatever state it failed: commands, flow runs, what they hold, containers."""
        workers = self.running_workers()
        for process in self.processes:
            if process.poll() is None and process not in workers:
                end(process)
        left = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
        unfinished = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=left)))
        with self.api() as client:
            for run in client.read_flow_runs(flow_run_filter=unfinished):
                for pid in self.flow_processes(run.id):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                client.set_flow_run_state(run.id, Crashed(message="Left by a test."), force=True)
                gpu_leases.give_back(client, run.id)
        for container in self.docker.containers.list(
            all=True, filters={"ancestor": self.environ["PIPPA_TRAINER_IMAGE"]}, ignore_removed=True
        ):
            with contextlib.suppress(docker.errors.APIError):  # it is being removed
                container.remove(force=True, v=True)


def end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="session")
def patient_image(docker_client: docker.DockerClient) -> Iterator[str]:
    """The tag of the image with the trainer that takes its time."""
    token = secrets.token_hex(4)
    tag = f"pippa-test/patient:{token}"
    arguments = {name: os.environ[name] for name in ("PYTHON_IMAGE",) if name in os.environ}
    # The label makes it another image than that of others who run the same tests here, and so its containers others.
    docker_client.images.build(
        path=str(SUPPORT / "patient"), tag=tag, rm=True, buildargs=arguments, labels={"pippa-test": token}
    )
    yield tag
    docker_client.images.remove(tag, force=True)


@pytest.fixture(scope="module")
def team(docker_client, patient_image, prefect_environ, buckets, tmp_path_factory) -> Iterator[Team]:
    """What the tests of a module need, in a store of their own."""
    folder = tmp_path_factory.mktemp("team")
    (folder / "password").write_text(prefect_environ["PREFECT_API_AUTH_STRING"] + "\n")
    with buckets.one() as settings:
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
            for worker in team.running_workers():
                end(worker)


@pytest.fixture(autouse=True)
def each_test(team: Team) -> Iterator[None]:
    """A worker runs, whatever the test before did to its own, and nothing that this one leaves meets the next."""
    if not team.running_workers():
        team.worker(f"worker-{len(team.workers)}")
    yield
    team.clean()
