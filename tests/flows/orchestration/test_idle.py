from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from flows import cli
from flows.launch import process_table
from flows.orchestration.idle import Idle, trains_here
from tests.support.waiting import until
from trainer.disk import locked


def test_the_command_runs_when_there_was_nothing_to_do_for_long_enough(tmp_path: Path) -> None:
    told, busy, said = tmp_path / "told", threading.Event(), []
    busy.set()
    code = f"import pathlib; pathlib.Path({str(told)!r}).open('a').write('x')"
    command = f'{sys.executable} -c "{code}"'
    with Idle(0.3, command, busy.is_set, said.append, look_seconds=0.05):
        assert not threading.Event().wait(1) and not told.exists()
        busy.clear()
        until(told.exists, lambda: said)
    assert said[0].startswith("Nothing to do for 0.005 minutes: ")


def test_a_command_that_fails_is_said_and_tried_again() -> None:
    said: list[str] = []
    with Idle(0.05, "/no/such/command now", lambda: False, said.append, look_seconds=0.02):
        until(lambda: said.count("/no/such/command now: No such file or directory") > 1, lambda: said)


def test_a_training_from_a_terminal_keeps_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flows: list[int] = []
    monkeypatch.setattr(process_table, "children", lambda: flows)  # the tests' own process has others
    lock = tmp_path / "runs" / "blog-1" / "lock"
    lock.parent.mkdir(parents=True)
    assert not trains_here(tmp_path)
    with locked(lock, wait=False):
        assert trains_here(tmp_path)
    assert not trains_here(tmp_path)
    flows.append(1)  # a worker's flow run
    assert trains_here(tmp_path)


def test_half_of_what_idle_needs_is_refused(capsys) -> None:
    assert cli.main(["worker", "--idle-minutes", "30"]) == 2
    assert "--idle-command" in capsys.readouterr().err
    assert cli.main(["worker", "--idle-minutes", "-1", "--idle-command", "true"]) == 2
