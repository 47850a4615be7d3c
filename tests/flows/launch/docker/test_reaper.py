from __future__ import annotations

import subprocess
import sys
import time
from datetime import timedelta

import pytest
import requests
from docker.errors import NotFound
from docker.models.containers import Container
from prefect.client.orchestration import get_client
from prefect.states import Crashed

from flows.launch import Job
from flows.launch.docker.reaper import Owned, reap, stop_container
from flows.orchestration import cancellation
from tests.flows.launch.conftest import Bench
from tests.flows.orchestration.conftest import idle
from tests.support.waiting import PATIENCE
from trainer.events import ProgressEvent

pytestmark = pytest.mark.docker


def names(bench: Bench) -> list[str]:
    return sorted(str(container.name) for container in bench.left())


def start(bench: Bench, job: Job) -> Container:
    """Started, and its SIGTERM handler in place."""
    training = bench.launcher.start(job, bench.environ)
    assert isinstance(training.next_event(PATIENCE), ProgressEvent)
    return bench.client.containers.get(training.name)


def test_what_nobody_owns_is_stopped_and_removed(bench: Bench):
    job = bench.job(count=1, wait=True)
    start(bench, job)
    ended = start(bench, job.model_copy(update={"name": f"{job.name}-2"}))
    ended.stop(timeout=int(PATIENCE))
    elsewhere = job.model_copy(update={"name": f"{job.name}-3", "labels": {**job.labels, "project": "stack"}})
    start(bench, elsewhere)

    asked: list[Owned] = []

    def is_live(found: Owned) -> bool:
        asked.append(found)
        return found.run_id != bench.run_id or found.name == f"pippa-{job.name}"

    assert reap(bench.client, is_live, grace=PATIENCE, project="") == [f"pippa-{job.name}-2"]
    mine = sorted(found.name for found in asked if found.run_id == bench.run_id)
    assert mine == [f"pippa-{job.name}", f"pippa-{job.name}-2"]  # not the other stack's
    assert names(bench) == [f"pippa-{job.name}", f"pippa-{job.name}-3"]

    assert sorted(stop_container(bench.client, bench.run_id, grace=PATIENCE)) == [
        f"pippa-{job.name}",
        f"pippa-{job.name}-3",
    ]
    assert names(bench) == [] == stop_container(bench.client, bench.run_id, grace=1)


def test_the_secrets_of_a_container_that_was_removed_without_its_volumes_are_removed(bench: Bench):
    container = start(bench, bench.job(count=1, wait=True))
    [secrets] = [each["Name"] for each in container.attrs["Mounts"] if each["Destination"] == "/run/secrets"]
    reap(bench.client, lambda _: True, grace=1)
    container.remove(force=True)  # as `docker rm -f` does
    assert bench.client.volumes.get(secrets)
    reap(bench.client, lambda _: True, grace=1)
    with pytest.raises(NotFound):
        bench.client.volumes.get(secrets)


def test_one_that_does_not_listen_is_killed_after_the_grace_period(bench: Bench):
    start(bench, bench.job(count=1, wait=True, deaf=True))
    assert stop_container(bench.client, bench.run_id, grace=0.5) == [f"pippa-{bench.run_id}"]
    assert names(bench) == []


def test_a_broken_connection_does_not_end_the_grace_period(bench: Bench, monkeypatch):
    job, wait = bench.job(count=1, wait=True, saves=1), Container.wait
    start(bench, job)
    ended: list[int | None] = []

    def broken(self: Container, timeout: float) -> dict[str, int]:
        ended.append(None)
        if len(ended) == 1:
            raise requests.exceptions.ConnectionError("as from a daemon that restarts")
        found = wait(self, timeout=timeout)
        ended[-1] = found["StatusCode"]
        return found

    monkeypatch.setattr(Container, "wait", broken)
    assert stop_container(bench.client, bench.run_id, grace=PATIENCE) == [f"pippa-{bench.run_id}"]
    # It saved: a follower, which may be late, may find the container gone before it reads that.
    assert ended == [None, 143]


def test_the_container_of_an_ended_flow_run_is_left_to_its_process(bench: Bench, stack, monkeypatch):
    monkeypatch.setenv("PIPPA_STOP_GRACE", "1")
    monkeypatch.setattr(cancellation, "MARGIN", timedelta(0))
    start(bench, bench.job(count=1, wait=True))
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(idle, name=bench.run_id, state=Crashed())
        time.sleep(3.5)  # the grace period; the server's clock tells whole seconds, and is a second late
        environ = {"PREFECT__FLOW_RUN_ID": str(run.id)}
        command = [sys.executable, "-c", "print(flush=True); input()"]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, env=environ, stdin=pipe, stdout=pipe) as process:
            assert process.stdout
            process.stdout.readline()  # it has its environment
            assert cancellation.reap(client) == [] and names(bench) == [f"pippa-{bench.run_id}"]
            process.kill()
        assert cancellation.reap(client) == [f"pippa-{bench.run_id}"] and names(bench) == []
