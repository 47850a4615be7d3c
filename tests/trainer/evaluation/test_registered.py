"""`trainer evaluate --checkpoint NAME`: from the registry, into the registry."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.config.finetune_config import FinetuneConfig
from trainer.config.run_spec import RunSpec, WandbSpec, new_run_id
from trainer.data.dataset_meta import DatasetMeta
from trainer.data.metadata import build_metadata, write_metadata
from trainer.data.synthetic import make_synthetic
from trainer.events import EvaluationEvent, parse_event
from trainer.gr00t.n15.tiny import make_tiny_base_model
from trainer.store import registry, runs, snapshots
from trainer.store.object_store import ObjectStore


@pytest.fixture
def entry(object_store: ObjectStore, tmp_path: Path) -> registry.CheckpointEntry:
    """A registered checkpoint of the tiny model, and its dataset beside it."""
    dataset = make_synthetic(tmp_path / "data", episodes=2)
    tiny = make_tiny_base_model(tmp_path / "tiny")
    checkpoint = Path(shutil.copytree(tiny, tmp_path / "checkpoint-30"))
    write_metadata(checkpoint / "experiment_cfg", build_metadata(DatasetMeta.load(dataset), "new_embodiment"))
    run_id = new_run_id("smoke")
    spec = RunSpec(
        run_id=run_id,
        preset="smoke",
        config=FinetuneConfig(dataset_path=["own"], data_config="fourier_gr1_arms_only"),
        provenance={},
        datasets=[snapshots.push(object_store, dataset, "dataset", "own").ref],
        base_model=snapshots.push(object_store, tiny, "model", "tiny").ref,
        wandb=WandbSpec(entity="e", project="p", name="n", run_id=run_id, group="g"),
    )
    ref = snapshots.push(object_store, checkpoint, "checkpoint", run_id).ref
    found = registry.CheckpointEntry(run_id=run_id, step=30, snapshot=ref, spec=spec)
    runs.write_spec(object_store, spec)
    registry.register(object_store, found)
    shutil.rmtree(dataset)
    return found


def evaluate(store_environ: dict[str, str], home: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, **store_environ, "PIPPA_HOME": str(home), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "trainer.cli", "evaluate", *flags]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_what_the_run_would_measure_joins_its_metrics(entry, object_store, s3_settings, tmp_path):
    done = evaluate(s3_settings.to_environ(), tmp_path / "home", "--checkpoint", "smoke/latest")
    assert done.returncode == 0, done.stderr
    [event] = [e for line in done.stdout.splitlines() if isinstance(e := parse_event(line), EvaluationEvent)]
    kept = registry.resolve(object_store, entry.name)
    assert event.step == 30 and kept.metrics == event.metrics and kept.metrics["open_loop_mse"] > 0
    assert registry.aliases(object_store)["smoke/best"] == entry.name
    report = runs.list_files(object_store, entry.run_id, "report")
    assert "report/checkpoint-30/evaluation.json" in report and any(name.endswith("_0.png") for name in report)

    # Another stretch of the data is another measurement, and never decides which checkpoint is the best.
    other = evaluate(s3_settings.to_environ(), tmp_path / "home", "--checkpoint", entry.name, "--trajs", "1")
    assert other.returncode == 0, other.stderr
    both = registry.resolve(object_store, entry.name).metrics
    assert both["open_loop_mse"] == kept.metrics["open_loop_mse"] and "open_loop_mse@trajs-1" in both
    content = runs.read_file(object_store, entry.run_id, "report/checkpoint-30@trajs-1/evaluation.json")
    assert content is not None and len(json.loads(content)["episodes"]) == 1


def test_a_module_that_a_spec_names_is_not_run(entry, object_store, s3_settings, tmp_path):
    """Who writes into a store decides what is evaluated, not what code runs where it is read."""
    config = entry.spec.config.model_copy(update={"data_config": "antigravity:fly"})
    run_id = new_run_id("smoke")
    spec = entry.spec.model_copy(update={"config": config, "run_id": run_id})
    runs.write_spec(object_store, spec)
    registry.register(object_store, entry.model_copy(update={"run_id": run_id, "spec": spec}))
    done = evaluate(s3_settings.to_environ(), tmp_path / "home", "--checkpoint", run_id)
    assert done.returncode == 2 and "antigravity:fly, a Python module, which is not run from a store" in done.stderr


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--checkpoint", "nobody/best"), "nobody/best"),
        (("--checkpoint", "latest", "--dataset", "elsewhere"), "elsewhere"),
    ],
)
def test_unknown_names_are_said_before_anything_is_loaded(entry, s3_settings, tmp_path, flags, named):
    done = evaluate(s3_settings.to_environ(), tmp_path / "home", *flags)
    assert done.returncode == 2 and named in done.stderr and not (tmp_path / "home" / "cache").exists()
