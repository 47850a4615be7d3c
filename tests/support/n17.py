"""Trained checkpoints of the tiny N1.7, by the engine's own loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainer.config.finetune_config import FinetuneConfig
from trainer.data.data_config import DataConfig, Feature
from trainer.data.synthetic import TASK_COLUMN
from trainer.gr00t.n17.tiny import make_tiny_base_model
from trainer.training.n17 import make_trainer

ARM = DataConfig(
    name="one_arm",
    video=("ego_view",),
    state=(Feature("right_arm"), Feature("right_hand")),
    action=(Feature("right_arm", relative_to="right_arm"), Feature("right_hand")),
    language=TASK_COLUMN,
)
"""An arm that is predicted relative to its state, and an absolute hand."""

TOLD_ARMS = DataConfig(
    name="arms",
    video=("ego_view",),
    state=(Feature("left_arm"), Feature("right_arm")),
    action=(Feature("left_arm", relative_to="left_arm"), Feature("right_arm")),
    language=TASK_COLUMN,
)
"""The two arms of ``tests.support.told``."""


def trained_n17(folder: Path, dataset: Path, steps: int = 2, **flags: Any) -> Path:
    """Train the tiny model for some ``steps`` in ``folder``, and return the checkpoint. ``PIPPA_HOME`` is used."""
    values: dict[str, Any] = {
        "data_config": ARM,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "dataloader_num_workers": 0,
        **flags,
    }
    config = FinetuneConfig(
        dataset_path=[str(dataset)],
        base_model_path=str(make_tiny_base_model(folder / "tiny")),
        output_dir=str(folder / "out"),
        max_steps=steps,
        save_steps=steps,
        **values,
    )
    trainer = make_trainer(config)
    trainer.train()
    trainer.save_final()
    return folder / "out" / f"checkpoint-{steps}"
