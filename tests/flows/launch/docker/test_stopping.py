"""A container that is being stopped, by whomever: it is told once, and who attaches to it meanwhile sees its end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from docker.models.containers import Container

from flows.launch.docker import reaper, stopping
from flows.launch.follow import StoppedError, can_heal, failure
from tests.flows.launch.conftest import Bench, followed
from tests.flows.launch.docker.test_launcher import CHECKPOINT, steps, stop_at, when
from tests.support.waiting import PATIENCE, until
from trainer.events import CheckpointEvent, ProgressEvent

pytestmark = pytest.mark.docker

SAVES: dict[str, Any] = {"count": 1, "wait": True, "saves": 2, "last": [CHECKPOINT]}
"""A trainer that takes two seconds to save."""
UNTIL_TOLD = {"saves": "until told"}
"""One that saves until ``has_saved``: whatever a test does meanwhile comes in time."""


@pytest.fixture
def sent(monkeypatch) -> list[str]:
    """The containers that got SIGTERM from this process, each as often as it did."""
    sent: list[str] = []
    kill = Container.kill

    def note(self: Container, signal: str | None = None) -> None:
        if signal == "SIGTERM":
            sent.append(str(self.id))
        kill(self, signal=signal)

    monkeypatch.setattr(Container, "kill", note)
    return sent


def training(bench: Bench, **options: Any) -> Container:
    """The container of a training whose pippa is gone, once it trains."""
    first = bench.start(**{**SAVES, **options})
    assert isinstance(first.next_event(PATIENCE), ProgressEvent)
    return bench.container()


def has_saved(container: Container) -> None:
    container.kill(signal="SIGUSR1")


def docker_stop(container: Container) -> None:
    container.stop(timeout=int(PATIENCE))


def cancelled(container: Container) -> None:
    stopping.stop([container], PATIENCE)


@pytest.mark.parametrize("stop", [docker_stop, cancelled])
def test_who_attaches_to_one_that_is_being_stopped_sees_it_end_and_starts_no_other(
    bench: Bench, stop: Callable[[Container], None]
):
    container = training(bench, **UNTIL_TOLD)
    stopper = threading.Thread(target=stop, args=[container])
    stopper.start()
    until(lambda: stopping.stop_sent(container))
    again = bench.start(count=99)
    assert bench.container().id == container.id
    outcome, events = followed(again, when(ProgressEvent, lambda: has_saved(container)))
    stopper.join(PATIENCE)
    assert outcome.exit_code == 143 and steps(events) == [1]
    # Removed by the one who stopped it, perhaps before the last words were read; never taken for a lost one.
    error = failure(outcome, again)
    assert isinstance(error, StoppedError) and not can_heal(error) and bench.left() == []


def test_ctrl_c_of_who_attached_to_one_that_is_being_stopped_lets_it_save(bench: Bench, sent):
    container = training(bench, **UNTIL_TOLD)
    stopper = threading.Thread(target=docker_stop, args=[container])
    stopper.start()
    until(lambda: stopping.stop_sent(container))
    again = bench.start()

    def interrupt() -> None:
        again.terminate()
        has_saved(container)

    outcome, events = followed(again, when(ProgressEvent, interrupt))
    stopper.join(PATIENCE)
    assert outcome.exit_code == 143 and isinstance(events[-1], CheckpointEvent)
    assert sent == [] and bench.left() == []


def test_one_that_several_stop_is_told_once(bench: Bench, sent):
    container = training(bench)
    first = threading.Thread(target=cancelled, args=[container])
    first.start()
    until(lambda: stopping.stop_sent(container))
    # A worker that was started after the first one was killed, say, and the reaper.
    reaper.stop_container(bench.client, bench.run_id, PATIENCE)
    first.join(PATIENCE)
    assert sent == [container.id] and bench.left() == []


def test_a_paused_one_is_let_go_on_so_that_it_can_save(bench: Bench):
    container = training(bench)
    container.pause()
    again = bench.start()
    outcome, events = followed(again, stop_at(again))
    assert outcome.exit_code == 143 and isinstance(events[-1], CheckpointEvent)


def test_the_result_of_one_that_another_follower_has_removed_is_known(bench: Bench):
    first = bench.start(count=2, interval=1, exit=3)
    second = bench.start()
    outcomes = []
    beside = threading.Thread(target=lambda: outcomes.append(followed(second)[0]))
    beside.start()
    outcomes.append(followed(first)[0])
    beside.join(PATIENCE)
    assert [each.exit_code for each in outcomes] == [3, 3] and bench.left() == []


def test_one_that_is_removed_while_it_trains_is_lost(bench: Bench):
    container = training(bench)
    again = bench.start()
    container.remove(force=True, v=True)
    outcome, _ = followed(again)
    assert outcome.exit_code == -9 and can_heal(failure(outcome, again) or AssertionError())
    assert "was removed while it ran" in again.lost
