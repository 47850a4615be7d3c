"""A checkpoint of a real LoRA training in a store, with what a run leaves beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.training import small_training
from trainer.config.argv import resolve_values
from trainer.data.synthetic import make_synthetic
from trainer.gr00t.n15.tiny import make_tiny_base_model
from trainer.runner.run_spec_builder import new_spec
from trainer.store import registry, runs, snapshots
from trainer.store.folder import FolderStore

BASE = "nvidia/GR00T-N1.5-3B"


class Exported:
    """The store, the checkpoint, and the folders it was trained from and in."""

    def __init__(self, folder: Path) -> None:
        self.place = folder
        self.store = FolderStore(folder / "home" / "store")
        self.store.create()
        dataset, self.base_model = make_synthetic(folder / "data", episodes=1), make_tiny_base_model(folder / "tiny")
        flags = {"lora_rank": 4, "max_steps": 2, "save_steps": 2}
        training = small_training(folder / "training", dataset, self.base_model, **flags)
        assert training.run() == 0
        self.checkpoint = training.checkpoint(2)
        spec = new_spec(
            *resolve_values(
                "smoke", {**flags, "dataset_path": [str(dataset)], "base_model_path": str(self.base_model)}
            ),
            [snapshots.push(self.store, dataset, "dataset", "pick", origin={"hub": "me/pick-place"}).ref],
            snapshots.push(
                self.store, self.base_model, "model", "groot", origin={"hub": BASE, "revision": "c0ffee"}
            ).ref,
        )
        pushed = snapshots.push(self.store, self.checkpoint, "checkpoint", spec.run_id)
        runs.write_spec(self.store, spec)
        self.entry = registry.CheckpointEntry(
            run_id=spec.run_id, step=2, snapshot=pushed.ref, spec=spec, metrics={"loss": 0.5}
        )
        registry.register(self.store, self.entry)
        for name in ("report/loss.png", "report/open_loop_episode_0.png", "report/open_loop_episode_0.json"):
            runs.write_file(self.store, spec.run_id, name, b"\x89PNG of a test")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("exported")
        patch.setenv("PIPPA_HOME", str(folder / "home"))
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        return Exported(folder)  # other rooms' tests follow in this process
