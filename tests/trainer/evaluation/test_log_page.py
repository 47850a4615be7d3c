"""``trainer log-page``: the page of a run in W&B, in the files that W&B writes offline."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.wandb_files import records
from trainer.config.presets import DEFAULT, PRESETS
from trainer.config.run_spec import RunSpec, SnapshotRef, new_run_id
from trainer.evaluation.recorded import PAGE
from trainer.runner.wandb_setup import default_wandb
from trainer.store import runs
from trainer.store.stores import open_store

TEXT = "<!doctype html><title>a run</title><p>It has learned the task: 42 °"


def recorded_run(monkeypatch, home, **config) -> RunSpec:
    monkeypatch.setenv("PIPPA_HOME", str(home))
    monkeypatch.delenv("PIPPA_S3_ENDPOINT", raising=False)
    store = open_store()
    store.create()
    run_id, ref = new_run_id("mine"), SnapshotRef(kind="dataset", name="x", digest="0" * 64)
    spec = RunSpec(
        run_id=run_id,
        preset=DEFAULT.name,
        config=PRESETS["smoke"].config.model_copy(update=config),
        provenance={},
        datasets=[ref],
        base_model=ref,
        wandb=default_wandb(DEFAULT, run_id, {}),  # without a tag, which W&B would refuse to be empty
    )
    runs.write_spec(store, spec)
    runs.write_file(store, run_id, PAGE, TEXT.encode())
    (home / "runs" / run_id / "wandb").mkdir(parents=True)  # the engine reported to W&B
    return spec


def log_page(home, run_id: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trainer.cli", "log-page", "--run", run_id],
        env={"PATH": os.environ["PATH"], "HOME": str(home), "PIPPA_HOME": str(home), "WANDB_MODE": "offline"} | environ,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_page_is_in_the_wandb_run_and_waits_in_the_store_for_the_upload(tmp_path, monkeypatch):
    spec = recorded_run(monkeypatch, tmp_path, report_to="wandb")
    ended = log_page(tmp_path, spec.run_id)
    assert ended.returncode == 0, ended.stderr
    folder = tmp_path / "runs" / spec.run_id
    found = records(folder)
    (run,) = [record.run for record in found if record.HasField("run")]
    assert run.run_id == spec.run_id
    assert "html-file" in "".join(str(record.history) for record in found)
    (page,) = folder.glob("wandb/offline-run-*/files/media/html/*.html")
    assert page.read_text() == TEXT
    kept = runs.list_files(open_store(), spec.run_id, "wandb")
    assert {name.rpartition(".")[2] for name in kept} >= {"html", "wandb"}


def test_a_run_without_wandb_logs_no_page(tmp_path, monkeypatch):
    spec = recorded_run(monkeypatch, tmp_path, report_to="tensorboard")
    ended = log_page(tmp_path, spec.run_id)
    assert (ended.returncode, ended.stdout) == (0, "") and not list(tmp_path.glob("runs/*/wandb/*"))
