"""What a checkpoint that an engine saved says of its training, for its entry in the registry."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from trainer.config.run_spec import RunSpec
from trainer.data.configs import get_data_config
from trainer.data.policy_config import PolicyConfig, read_policy_config, write_policy_config
from trainer.errors import PippaError
from trainer.store import resume_points

UPSTREAM_DENOISING_STEPS = 4


def describe(folder: Path, spec: RunSpec) -> None:
    """Let a checkpoint of Isaac-GR00T know its data config and tag, where the run's spec has them."""
    with contextlib.suppress(ValueError, KeyError, TypeError, PippaError):
        values = json.loads((folder / "config.json").read_text())
        head = values.get("action_head_cfg", values)  # N1.7's is flat
        config = get_data_config(spec.config.data_config)
        known = PolicyConfig(
            data_config=config,
            embodiment_tag=spec.config.embodiment_tag,
            action_horizon=config.action_horizon,
            denoising_steps=head.get("num_inference_timesteps", UPSTREAM_DENOISING_STEPS),
        )
        write_policy_config(folder / "experiment_cfg", known)


def loss(folder: Path) -> dict[str, float]:
    """The loss that was logged last before the checkpoint, for lists; empty where none was, or the file is odd."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
        losses = [float(row["loss"]) for row in history if "loss" in row]
        return {"loss": losses[-1]} if losses else {}
    return {}


def held_out(folder: Path) -> list[str]:
    """The episodes that its training left out."""
    with contextlib.suppress(PippaError, OSError):
        known = read_policy_config(folder)
        return known.held_out if known else []
    return []


def training_state_bytes(folder: Path) -> int:
    """The size of what only a resume needs."""
    return sum(file.stat().st_size for file in folder.iterdir() if resume_points.is_training_state(file.name))
