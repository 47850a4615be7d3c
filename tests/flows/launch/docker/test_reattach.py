"""A job has one container, no matter who starts it, how often, and whatever happens meanwhile."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import requests
from docker.models.containers import Container

from flows.launch.docker import launcher, placement
from flows.launch.docker.launcher import DockerLauncher
from tests.flows.launch.conftest import Bench, followed
from tests.flows.launch.docker.test_launcher import CHECKPOINT, steps, stop_at
from tests.support.waiting import PATIENCE
from trainer.errors import PippaError, UsageError
from trainer.events import CheckpointEvent, DoneEvent, ProgressEvent

pytestmark = pytest.mark.docker

ROOT = Path(__file__).parents[4]


def test_a_restarted_flow_follows_the_container_of_a_killed_one(bench: Bench):
    code = (
        "import json, sys; from pathlib import Path;"
        "from flows.launch import Job; from flows.launch.docker import placement;"
        "from flows.launch.docker.launcher import DockerLauncher;"
        "placement.VOLUMES, environ, job, home = json.load(sys.stdin);"
        "training = DockerLauncher(Path(home), environ).start(Job.model_validate(job), environ);"
        "print(training.next_event(300), flush=True);"
        "training.next_event(300)"
    )
    job = bench.job(count=1, wait=True, last=[CHECKPOINT])
    given = json.dumps([placement.VOLUMES, bench.environ, job.model_dump(mode="json"), str(bench.home)])
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdin is not None and first.stdout is not None
        first.stdin.write(given)
        first.stdin.close()
        assert "step=1" in first.stdout.readline()
        first.kill()
    before = bench.container()
    assert before.status == "running" and bench.launcher.knows(bench.run_id)

    training = bench.start(count=99)  # the same job: what it would do now doesn't matter
    assert bench.container().id == before.id
    outcome, events = followed(training, stop_at(training))
    assert steps(events) == [1] and isinstance(events[-1], CheckpointEvent) and outcome.exit_code == 143
    assert bench.left() == [] and not bench.launcher.knows(bench.run_id)


def test_the_result_of_one_that_ended_meanwhile_is_taken(bench: Bench):
    training = bench.start(count=2, events=[{"event": "done"}], exit=3)
    bench.container().wait()
    outcome, events = followed(DockerLauncher(bench.home, bench.environ).start(bench.job(count=9), bench.environ))
    assert outcome.exit_code == 3 and steps(events) == [1, 2] and isinstance(events[0], DoneEvent)
    assert bench.left() == []
    training.kill()


def test_one_that_was_stopped_from_outside_is_started_again(bench: Bench):
    first = bench.start(count=1, wait=True)
    assert isinstance(first.next_event(PATIENCE), ProgressEvent)
    bench.container().stop(timeout=int(PATIENCE))
    outcome, events = followed(bench.start(count=1))
    assert outcome.exit_code == 0 and steps(events) == [1]


def test_one_whose_store_is_gone_is_replaced(bench: Bench):
    first = bench.start(count=1, wait=True)
    assert isinstance(first.next_event(PATIENCE), ProgressEvent)
    before = bench.container().id
    bench.environ["PIPPA_S3_ENDPOINT"] = "http://store.example:9001"
    second = bench.start(count=2)
    assert before not in [each.id for each in bench.left()]
    assert steps(followed(second)[1]) == [1, 2]
    first.kill()


def test_one_whose_store_answers_is_left_alone_under_whatever_name_it_has_here(bench: Bench):
    with socket.create_server(("127.0.0.1", 0)) as store:
        port = store.getsockname()[1]
        bench.environ["PIPPA_S3_ENDPOINT"] = f"http://127.0.0.1:{port}"
        first = bench.start(count=1, wait=True)
        assert isinstance(first.next_event(PATIENCE), ProgressEvent)
        bench.environ["PIPPA_S3_ENDPOINT"] = f"http://localhost:{port}"
        with pytest.raises(UsageError, match=rf"runs already, with the object store http://127\.0\.0\.1:{port}"):
            bench.start()
    assert bench.container().status == "running"
    first.kill()


def test_one_of_another_stack_is_left_alone(bench: Bench):
    job = bench.job(wait=True)
    training = bench.launcher.start(job.model_copy(update={"labels": {**job.labels, "project": "arms"}}), bench.environ)
    bench.environ["PIPPA_S3_ENDPOINT"] = "http://127.0.0.1:9000"
    with pytest.raises(UsageError, match="started by the compose project arms") as refused:
        bench.start()
    assert f"docker compose run --rm worker pippa runs resume {bench.run_id}" in refused.value.hint
    assert bench.container().status == "running"
    training.kill()


def never_started(bench: Bench) -> Container:
    """What a process leaves that is killed between the container's creation and its start."""
    return bench.client.containers.create(
        bench.environ["PIPPA_TRAINER_IMAGE"],
        ["trainer", json.dumps({"count": 7, "wait": True})],  # one that has ended could be removed
        name=f"pippa-{bench.run_id}",
        labels={"pippa.run-id": bench.run_id},
        environment={"PIPPA_S3_ENDPOINT": bench.environ["PIPPA_S3_ENDPOINT"]},
    )


def test_one_that_was_never_started_is_replaced(bench: Bench, monkeypatch):
    monkeypatch.setattr(launcher, "STARTING_SECONDS", -1.0)
    never_started(bench)
    outcome, _ = followed(bench.start())
    assert outcome.exit_code == 0 and bench.left() == []


def test_one_that_starts_just_when_it_is_taken_for_abandoned_is_followed(bench: Bench, monkeypatch):
    slow = never_started(bench)

    def start_it(_: Container) -> float:
        slow.start()
        return launcher.STARTING_SECONDS + 1

    monkeypatch.setattr(launcher, "_age", start_it)
    training = bench.start(count=1)
    outcome, events = followed(training, lambda event: training.terminate() if steps([event]) == [7] else None)
    assert outcome.exit_code == 143 and steps(events) == list(range(1, 8))


def test_a_slow_starter_whose_container_was_taken_for_abandoned_follows_the_other_s(bench: Bench, monkeypatch):
    monkeypatch.setattr(launcher, "STARTING_SECONDS", -1.0)
    created, go_on, put = threading.Event(), threading.Event(), Container.put_archive

    def slow(self: Container, *arguments: Any) -> Any:
        if not created.is_set():
            created.set()
            assert go_on.wait(PATIENCE)
        return put(self, *arguments)

    monkeypatch.setattr(Container, "put_archive", slow)
    followers: list[Any] = []
    first = threading.Thread(target=lambda: followers.append(bench.start(count=1, wait=True)))
    first.start()
    assert created.wait(PATIENCE)
    abandoned = bench.container().id
    followers.append(bench.start(count=1, wait=True))
    assert bench.container().id != abandoned
    started = bench.container().id
    go_on.set()
    first.join(PATIENCE)
    assert len(followers) == 2 and bench.container().id == started and bench.container().status == "running"
    assert all(isinstance(each.next_event(PATIENCE), ProgressEvent) for each in followers)
    followers[0].kill()
    assert bench.left() == []


def test_one_whose_start_was_answered_too_late_is_followed(bench: Bench, monkeypatch):
    start = Container.start

    def late(self: Container) -> None:
        start(self)
        raise requests.exceptions.ReadTimeout("as from a busy daemon")

    monkeypatch.setattr(Container, "start", late)
    outcome, events = followed(bench.start(count=3, interval=0.1))
    assert outcome.exit_code == 0 and steps(events) == [1, 2, 3] and bench.left() == []


def test_one_that_could_not_be_started_is_not_left(bench: Bench, monkeypatch):
    def refused(_: Container) -> None:
        raise requests.exceptions.ConnectionError("as from a daemon that restarts")

    monkeypatch.setattr(Container, "start", refused)
    with pytest.raises(PippaError, match="does not answer"):
        bench.start(count=1)
    assert bench.left() == []


def test_two_that_start_the_same_job_follow_one_container(bench: Bench):
    found: list[Any] = []
    starters = [threading.Thread(target=lambda: found.append(bench.start(count=1, wait=True))) for _ in range(3)]
    for each in starters:
        each.start()
    for each in starters:
        each.join()
    assert len(found) == 3
    bench.container()  # one
    bench.launcher.start(bench.job(), bench.environ).kill()
    assert bench.left() == []
