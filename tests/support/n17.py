"""Data configs, command lines and checkpoints of trainings of GR00T N1.7 on the synthetic dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.training import Training
from trainer.config.n17_config import N17Config
from trainer.data.config_file import to_json
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
"""One arm of the synthetic robot, relative to its state, and a hand that is not."""

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
        "global_batch_size": 8,
        "learning_rate": 1e-3,
        "dataloader_num_workers": 0,
        **flags,
    }
    config = N17Config(
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


def n17_training(output_dir: Path, dataset: Path, base_model: Path, **flags: object) -> Training:
    """Six steps of ten samples, saved three times, with no processes to load them; ``flags`` say otherwise."""
    defaults: dict[str, object] = {
        "dataset_path": dataset,
        "base_model_path": base_model,
        "output_dir": output_dir,
        "data_config": to_json(ARM),
        "global_batch_size": 10,
        "max_steps": 6,
        "save_steps": 2,
        "dataloader_num_workers": 0,
        "learning_rate": 1e-3,
    }
    return Training({**defaults, **flags})
