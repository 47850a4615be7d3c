"""The records of runs against real servers."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from tests.trainer.store.conftest import a_spec, tree_of
from trainer.errors import StoreError, UsageError
from trainer.store import runs
from trainer.store.object_store import ObjectStore


def test_spec_and_state(object_store: ObjectStore) -> None:
    spec = a_spec()
    runs.write_spec(object_store, spec)
    runs.write_spec(object_store, spec)  # a restarted run
    assert runs.read_spec(object_store, spec.run_id) == spec
    assert runs.read_state(object_store, spec.run_id) is None
    state = runs.RunState(status="running", phase="train", step=3, of=10, metrics={"loss": float("inf")})
    runs.write_state(object_store, spec.run_id, state)
    assert runs.read_state(object_store, spec.run_id) == state
    older = a_spec(preset="blog")
    older = older.model_copy(update={"created": spec.created - timedelta(days=1)})
    runs.write_spec(object_store, older)
    assert runs.list_runs(object_store) == [runs.Run(older, None), runs.Run(spec, state)]


def test_a_run_id_is_used_once(object_store: ObjectStore) -> None:
    spec = a_spec()
    runs.write_spec(object_store, spec)
    with pytest.raises(StoreError, match="already, with another spec"):
        runs.write_spec(object_store, spec.model_copy(update={"preset": "blog"}))
    with pytest.raises(UsageError, match="no run"):
        runs.read_spec(object_store, a_spec(preset="other").run_id)
    with pytest.raises(UsageError, match="not a run id"):
        runs.write_file(object_store, "../checkpoints", "x", b"")


def test_files_and_folders_of_a_run(object_store: ObjectStore, tmp_path: Path) -> None:
    run_id = a_spec().run_id
    report = tmp_path / "report"
    (report / "plots").mkdir(parents=True)
    (report / "summary.md").write_text("# Done")
    (report / "plots" / "joint 1.png").write_bytes(b"png")
    runs.write_file(object_store, run_id, "log.txt", b"one\n")
    runs.write_file(object_store, run_id, "log.txt", b"one\ntwo\n")
    keys = runs.upload_folder(object_store, run_id, report, "report")
    assert keys == [f"runs/{run_id}/report/plots/joint 1.png", f"runs/{run_id}/report/summary.md"]
    (report / "summary.md").write_text("# Done, really")
    runs.upload_folder(object_store, run_id, report, "report")
    assert runs.read_file(object_store, run_id, "log.txt") == b"one\ntwo\n"
    assert runs.read_file(object_store, run_id, "events.jsonl") is None
    assert runs.list_files(object_store, run_id) == ["log.txt", "report/plots/joint 1.png", "report/summary.md"]
    runs.download_folder(object_store, run_id, "report", tmp_path / "out")
    assert tree_of(tmp_path / "out") == tree_of(report)
    assert runs.list_runs(object_store) == []
