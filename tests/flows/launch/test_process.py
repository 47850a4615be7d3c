from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from flows.launch import follow as following
from flows.launch import process, training_job
from flows.launch.follow import Outcome, TrainerLostError, can_heal, failure, follow
from flows.launch.launchers import get_launcher
from flows.launch.process import ProcessLauncher, TrainerProcess
from tests.support.waiting import PATIENCE, until
from trainer.errors import DatasetError, OutOfMemoryError, PippaError, StoreError, UsageError
from trainer.events import CheckpointEvent, Event, PhaseEvent, ProgressEvent, WarningEvent

TRAINER = Path(__file__).parents[2] / "support" / "fake_trainer.py"
JOB = training_job("smoke-20260101-000000-abcd", "smoke")
PROGRESS = {"event": "progress", "step": 1, "of": 2, "loss": 0.5}
CHECKPOINT = {"event": "checkpoint", "step": 1, "digest": "0" * 64, "bytes_uploaded": 5, "seconds": 0.1}


@pytest.fixture
def start(tmp_path) -> Callable[..., TrainerProcess]:
    def start(**options: object) -> TrainerProcess:
        launcher = ProcessLauncher(tmp_path, [sys.executable, str(TRAINER)])
        return launcher.start(JOB, {**os.environ, "FAKE_TRAINER": json.dumps(options)})

    return start


def followed(training: TrainerProcess, grace: float = PATIENCE) -> tuple[Outcome, list[Event]]:
    events: list[Event] = []
    return follow(training, events.append, grace), events


def when(events: list[Event], kind: type[Event], do: Callable[[], None]) -> Callable[[Event], None]:
    """Collect events, and ``do`` something at the first of a kind."""

    def observe(event: Event) -> None:
        if isinstance(event, kind) and not any(isinstance(known, kind) for known in events):
            do()
        events.append(event)

    return observe


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_every_event_arrives_in_order_and_other_lines_are_left_out(start):
    lines = [{"event": "phase", "phase": "train"}, "a library's own print", PROGRESS, CHECKPOINT]
    training = start(lines=lines)
    outcome, events = followed(training)
    assert [type(event) for event in events] == [PhaseEvent, ProgressEvent, CheckpointEvent]
    assert outcome == Outcome(0, None, interrupted=False) and failure(outcome, training) is None
    assert "--run-id" in training.log.read_text()


def test_a_run_that_the_store_does_not_know_is_said_in_the_log_too(s3_settings, tmp_path):
    environ = {**os.environ, **s3_settings.to_environ(), "PIPPA_HOME": str(tmp_path)}
    training = ProcessLauncher(tmp_path).start(JOB, environ)
    error = failure(followed(training)[0], training)
    assert isinstance(error, UsageError) and JOB.name in error.message
    assert error.message in training.log.read_text()


@pytest.mark.parametrize(("code", "kind"), [(2, UsageError), (3, DatasetError), (4, StoreError), (5, OutOfMemoryError)])
def test_a_failure_is_the_trainers_own_words(start, code, kind):
    error = {"event": "error", "code": code, "message": "what was wrong", "hint": "what to do"}
    training = start(lines=[error], exit=code)
    outcome, _ = followed(training)
    found = failure(outcome, training)
    assert type(found) is kind and (found.message, found.hint) == ("what was wrong", "what to do")
    assert can_heal(found) == (code == 4)


def test_a_trainer_that_dies_without_a_word_shows_its_log(start):
    training = start(exit=1)
    outcome, _ = followed(training)
    found = failure(outcome, training)
    assert isinstance(found, PippaError) and "a word for people" in found.message and str(training.log) in found.hint


def test_a_killed_trainer_is_lost_and_may_heal(start):
    training = start(lines=[PROGRESS], exit=-9)
    outcome, _ = followed(training)
    found = failure(outcome, training)
    assert isinstance(found, TrainerLostError) and "SIGKILL" in found.message and can_heal(found)


def test_a_trainer_stopped_by_somebody_else_is_no_success(start):
    training = start(lines=[PROGRESS], wait=True)
    events: list[Event] = []
    stop = when(events, ProgressEvent, lambda: os.kill(training.pid, signal.SIGTERM))
    found = failure(follow(training, stop, PATIENCE), training)
    assert found is not None and found.exit_code == 143 and not can_heal(found)


def test_ctrl_c_lets_the_trainer_save_and_follows_it_to_the_end(start):
    training = start(lines=[PROGRESS], wait=True, last_words=[CHECKPOINT])
    events: list[Event] = []
    before = signal.getsignal(signal.SIGINT)
    outcome = follow(training, when(events, ProgressEvent, interrupt), PATIENCE)
    assert outcome.interrupted and outcome.exit_code == 143
    assert isinstance(events[-1], CheckpointEvent)
    assert any(isinstance(event, WarningEvent) and "Ctrl-C again" in event.message for event in events)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_ends_a_trainer_that_does_not_listen(start, tmp_path, monkeypatch):
    monkeypatch.setattr(process, "KILL_SECONDS", 0.5)
    training = start(lines=[PROGRESS], wait=True, deaf=True, child=str(tmp_path / "child"))
    # The first one was noted when the warning comes.
    once, twice = when([], ProgressEvent, interrupt), when([], WarningEvent, interrupt)
    monkeypatch.setattr(following, "ECHO_SECONDS", 0.0)

    def observe(event: Event) -> None:
        once(event)
        twice(event)

    outcome = follow(training, observe, 2 * PATIENCE)
    assert outcome.interrupted and outcome.exit_code == -signal.SIGKILL
    wait_gone(training.pid)
    wait_gone(int((tmp_path / "child").read_text()))


def test_the_grace_period_ends(start, monkeypatch):
    monkeypatch.setattr(process, "KILL_SECONDS", 0.5)
    training = start(lines=[PROGRESS], wait=True, deaf=True)
    outcome = follow(training, when([], ProgressEvent, interrupt), 0.1)
    assert outcome.exit_code == -signal.SIGKILL
    wait_gone(training.pid)


def test_an_exception_stops_the_trainer_in_good_order_and_is_raised(start):
    class TerminationSignal(BaseException):
        """As Prefect raises it, at any line."""

    training = start(lines=[PROGRESS], wait=True, last_words=[CHECKPOINT])
    events: list[Event] = []

    def cancelled() -> None:
        raise TerminationSignal

    with pytest.raises(TerminationSignal):
        follow(training, when(events, ProgressEvent, cancelled), PATIENCE)
    assert any(isinstance(event, CheckpointEvent) for event in events)
    wait_gone(training.pid)


def test_what_the_trainer_leaves_running_is_ended(start, tmp_path):
    training = start(child=str(tmp_path / "child"))
    followed(training)
    wait_gone(int((tmp_path / "child").read_text()))


def test_an_unknown_launcher_is_named(tmp_path):
    with pytest.raises(UsageError, match="'dokcer'"):
        get_launcher("dokcer", tmp_path)


def test_a_command_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(PippaError, match="Can't start"):
        ProcessLauncher(tmp_path, [str(tmp_path / "missing")]).start(JOB, {})


def wait_gone(pid: int) -> None:
    """Wait for the end of a process."""
    until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
