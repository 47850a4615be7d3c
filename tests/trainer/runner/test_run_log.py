"""A run's record in a real store."""

from __future__ import annotations

import io

from tests.support.waiting import until
from trainer.config.run_spec import new_run_id
from trainer.runner import run_log
from trainer.runner.run_log import RunLog
from trainer.store.object_store import ObjectStore
from trainer.store.runs import RunState, read_state


def test_a_run_without_news_is_still_heard_of(object_store: ObjectStore, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(run_log, "STATE_SECONDS", 0.1)
    monkeypatch.setattr(run_log, "FILES_SECONDS", 0.3)
    run_id, began = new_run_id("smoke"), RunState(status="preparing", step=3)
    kept = RunLog(object_store, run_id, tmp_path, began, stdout=io.StringIO())
    try:

        def renewed() -> RunState | None:
            state = read_state(object_store, run_id)
            return state if state is not None and state.updated != began.updated else None

        state = until(renewed)
        assert state.model_copy(update={"updated": began.updated}) == began
    finally:
        kept.close()
