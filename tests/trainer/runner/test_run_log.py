"""A run's record in a real store."""

from __future__ import annotations

import io
import time

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
        deadline = time.monotonic() + 20
        while (state := read_state(object_store, run_id)) is None or state.updated == began.updated:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert state.model_copy(update={"updated": began.updated}) == began
    finally:
        kept.close()
