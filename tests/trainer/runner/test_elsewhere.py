"""A run that another machine still trains."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from itertools import chain, repeat
from pathlib import Path

import pytest

from trainer.runner import elsewhere, workspace
from trainer.store import heartbeat, runs
from trainer.store.folder import FolderStore

RUN = "smoke-20261129-120000-abcd"
FIRST = f"first/boot:/var/lib/pippa/runs/{RUN}/lock"


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    store = FolderStore(tmp_path / "store")
    store.create()
    return store


def reports(store: FolderStore, step: int, status: str = "running", lock: str = FIRST) -> None:
    runs.write_state(store, RUN, runs.RunState.model_validate({"status": status, "step": step, "of": 9, "lock": lock}))


def test_it_is_waited_for_to_its_end_and_its_machine_is_named(store, monkeypatch) -> None:
    monkeypatch.setattr(elsewhere, "LOOK_SECONDS", 0)
    said: list[str] = []
    seen: list[int] = []

    def look(state: runs.RunState) -> None:
        seen.append(state.step)
        reports(store, state.step + 1, "done" if state.step == 2 else "running")

    monkeypatch.setenv("PIPPA_HOME", "/var/lib/pippa")  # as in every container
    reports(store, 1)
    end = elsewhere.waited_for(store, RUN, said.append, look)
    assert end is not None and end.status == "done" and seen == [1, 2]
    assert len(said) == 1 and f"{RUN} trains on first already, at step 1 of 9" in said[0]


def test_a_machine_that_falls_silent_is_taken_for_lost(store, monkeypatch) -> None:
    monkeypatch.setattr(elsewhere, "LOOK_SECONDS", 0)
    monkeypatch.setattr(elsewhere, "WATCHED_SECONDS", 0.2)
    reports(store, 1)
    later = chain([timedelta(0), timedelta(seconds=59)], repeat(heartbeat.ALIVE + timedelta(seconds=1)))
    monkeypatch.setattr(elsewhere.clock, "store_time", lambda _: datetime.now(UTC) + next(later))
    end = elsewhere.waited_for(store, RUN, lambda _: None)
    assert end is not None and end.status == "running"


def test_after_an_outage_of_the_store_its_machine_has_time_to_report(store, monkeypatch) -> None:
    monkeypatch.setattr(elsewhere, "LOOK_SECONDS", 0)
    monkeypatch.setattr(elsewhere, "WATCHED_SECONDS", 0.4)
    silence = heartbeat.ALIVE + timedelta(seconds=1)
    later = iter([timedelta(0), silence, timedelta(0), timedelta(0)])
    monkeypatch.setattr(elsewhere.clock, "store_time", lambda _: datetime.now(UTC) + next(later))
    looks = iter([lambda: time.sleep(0.5), lambda: None, lambda: reports(store, 9, "done")])
    reports(store, 1)
    end = elsewhere.waited_for(store, RUN, lambda _: None, lambda _: next(looks)())
    assert end is not None and end.status == "done"


def test_what_ended_and_what_was_killed_on_this_machine_is_not_waited_for(store, tmp_path, monkeypatch) -> None:
    assert elsewhere.waited_for(store, RUN, pytest.fail) is None
    reports(store, 9, "done")
    assert elsewhere.waited_for(store, RUN, pytest.fail) is None
    folder = tmp_path / "home" / "runs" / RUN
    with workspace.locked(folder, print):
        reports(store, 5, lock=workspace.lock_address(folder))
        monkeypatch.setenv("PIPPA_HOME", str(tmp_path / "home"))
        assert elsewhere.waited_for(store, RUN, pytest.fail) is None  # it still saves here: its lock is waited for
        monkeypatch.setenv("PIPPA_HOME", str(tmp_path / "second"))  # another folder of this machine
        monkeypatch.setattr(elsewhere, "LOOK_SECONDS", 0)
        end = elsewhere.waited_for(store, RUN, lambda _: None, lambda _: reports(store, 9, "done"))
        assert end is not None and end.status == "done"
        reports(store, 5, lock=workspace.lock_address(folder))
    assert elsewhere.waited_for(store, RUN, pytest.fail) is None


def test_a_folder_of_the_same_name_on_another_machine_is_not_taken_for_its_own(tmp_path, monkeypatch) -> None:
    with workspace.locked(tmp_path, print):
        there = workspace.lock_address(tmp_path)
    monkeypatch.setenv(workspace.MACHINE, "second")
    assert workspace.is_held(there) is False  # the folder it was, after the machine's start or in another container
    with workspace.locked(tmp_path, print):
        here = workspace.lock_address(tmp_path)
        assert workspace.is_held(here) and workspace.is_held(there) is None
    assert workspace.machine_of(here) == "second"
