"""Registered checkpoints of the tiny model, as an earlier pippa left them: without a record of their own."""

from __future__ import annotations

import shutil
from pathlib import Path

from trainer.config.finetune_config import FinetuneConfig
from trainer.config.run_spec import RunSpec, WandbSpec, new_run_id
from trainer.data.dataset_meta import DatasetMeta
from trainer.data.metadata import build_metadata, write_metadata
from trainer.data.synthetic import make_synthetic
from trainer.gr00t.n15.tiny import make_tiny_base_model
from trainer.store import registry, runs, snapshots
from trainer.store.object_store import ObjectStore


def tiny_checkpoint(store: ObjectStore, folder: Path) -> registry.CheckpointEntry:
    """A registered checkpoint of the tiny model, and its dataset in the store; ``folder`` is for its files."""
    dataset = make_synthetic(folder / "data", episodes=2)
    tiny = make_tiny_base_model(folder / "tiny")
    checkpoint = Path(shutil.copytree(tiny, folder / "checkpoint-30"))
    write_metadata(checkpoint / "experiment_cfg", build_metadata(DatasetMeta.load(dataset), "new_embodiment"))
    run_id = new_run_id("smoke")
    spec = RunSpec(
        run_id=run_id,
        preset="smoke",
        config=FinetuneConfig(dataset_path=["own"], data_config="fourier_gr1_arms_only"),
        provenance={},
        datasets=[snapshots.push(store, dataset, "dataset", "own").ref],
        base_model=snapshots.push(store, tiny, "model", "tiny").ref,
        wandb=WandbSpec(entity="e", project="p", name="n", run_id=run_id, group="g"),
    )
    ref = snapshots.push(store, checkpoint, "checkpoint", run_id).ref
    found = registry.CheckpointEntry(run_id=run_id, step=30, snapshot=ref, spec=spec)
    runs.write_spec(store, spec)
    registry.register(store, found)
    shutil.rmtree(dataset)
    return found


def another(entry: registry.CheckpointEntry, store: ObjectStore, folder: Path, step: int) -> registry.CheckpointEntry:
    """A later checkpoint of the same run, of other weights."""
    tiny = make_tiny_base_model(folder / f"tiny-{step}", seed=step)
    shutil.copytree(folder / "checkpoint-30" / "experiment_cfg", tiny / "experiment_cfg")
    ref = snapshots.push(store, tiny, "checkpoint", entry.run_id).ref
    found = entry.model_copy(update={"step": step, "snapshot": ref})
    registry.register(store, found)
    return found
