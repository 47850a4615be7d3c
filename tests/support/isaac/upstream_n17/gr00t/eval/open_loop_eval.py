"""Stands in for upstream's script of this name: its command line and what it logs. No policy is asked."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tyro
from gr00t.data.embodiment_tags import EmbodimentTag  # pyrefly: ignore[missing-import] - where it runs
from gr00t.standin import Weights, episodes  # pyrefly: ignore[missing-import]


@dataclass
class ArgsConfig:
    """The arguments, with the defaults of commit 626af89."""

    host: str = "127.0.0.1"
    port: int = 5555
    steps: int = 200
    traj_ids: list[int] = field(default_factory=lambda: [0])
    action_horizon: int = 16
    dataset_path: str = "demo_data/cube_to_bowl_5/"
    embodiment_tag: str = "new_embodiment"
    model_path: str | None = None
    denoising_steps: int = 4
    save_plot_path: str | None = None
    modality_keys: list[str] | None = None


def main(args: ArgsConfig) -> None:
    EmbodimentTag.resolve(args.embodiment_tag)
    logging.basicConfig(level=logging.INFO)
    assert args.model_path is not None
    folder = Path(args.model_path)
    Weights(folder)
    json.loads((folder / "processor_config.json").read_text())
    dataset = episodes(Path(args.dataset_path))
    errors = []
    for traj_id in args.traj_ids:
        if traj_id >= len(dataset):
            logging.warning(f"Trajectory ID {traj_id} is out of range. Skipping.")
            continue
        mse, mae = np.float64(0.01 * (traj_id + 1)), np.float64(0.1)
        logging.info(f"Unnormalized Action MSE across single traj: {mse}")
        logging.info(f"MSE for trajectory {traj_id}: {mse}, MAE: {mae}")
        errors.append(mse)
    logging.info(f"Average MSE across all trajs: {np.mean(errors)}")
    logging.info("Done")


if __name__ == "__main__":
    main(tyro.cli(ArgsConfig))
