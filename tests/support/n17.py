"""Data configs and command lines for trainings of GR00T N1.7 on the synthetic dataset."""

from __future__ import annotations

from pathlib import Path

from tests.support.training import Training
from trainer.data.config_file import to_json
from trainer.data.data_config import DataConfig, Feature
from trainer.data.synthetic import TASK_COLUMN

ARM = DataConfig(
    name="one_arm",
    video=("ego_view",),
    state=(Feature("right_arm"), Feature("right_hand")),
    action=(Feature("right_arm", relative_to="right_arm"), Feature("right_hand")),
    language=TASK_COLUMN,
)
"""One arm of the synthetic robot, relative to its state, and a hand that is not."""


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
