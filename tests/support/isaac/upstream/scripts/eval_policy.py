"""Stands in for upstream's script of this name: its command line and what it prints. No policy is asked."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import List, Literal, Optional  # noqa: UP035 - as upstream, for Python 3.10 and tyro

import numpy as np
import tyro
from gr00t.standin import DATA_CONFIGS, Weights, episodes  # pyrefly: ignore[missing-import] - beside this script where it runs


@dataclass
class ArgsConfig:
    """The arguments, with the defaults of branch n1.5-release."""

    host: str = "localhost"
    port: int = 5555
    plot: bool = False
    modality_keys: List[str] = field(default_factory=lambda: ["left_arm", "right_arm"])  # noqa: UP006
    data_config: str = "fourier_gr1_arms_only"
    steps: int = 150
    trajs: int = 1
    start_traj: int = 0
    action_horizon: Optional[int] = None  # noqa: UP045
    video_backend: Literal["decord", "torchvision_av", "torchcodec"] = "torchcodec"
    dataset_path: str = "demo_data/robot_sim.PickNPlace/"
    embodiment_tag: Literal["gr1", "oxe_droid", "agibot_genie1", "new_embodiment"] = "gr1"
    model_path: Optional[str] = None  # noqa: UP045
    denoising_steps: int = 4
    save_plot_path: Optional[str] = None  # noqa: UP045
    plot_state: bool = False


def main(config: ArgsConfig) -> None:
    assert config.model_path is not None
    folder = Path(config.model_path)
    Weights(folder)
    known = json.loads((folder / "experiment_cfg" / "metadata.json").read_text())
    if config.embodiment_tag not in known:
        raise ValueError(f"No metadata found for embodiment tag: {config.embodiment_tag}")
    unknown = set(config.modality_keys) - set(DATA_CONFIGS[config.data_config])
    assert not unknown, unknown
    lengths = np.array([episode["length"] for episode in episodes(Path(config.dataset_path))])
    print("Total trajectories:", len(lengths))
    print("All trajectories:", lengths)
    print("Running on all trajs with modality keys:", config.modality_keys)
    all_mse = []
    for traj_id in range(config.start_traj, config.start_traj + config.trajs):
        print("Running trajectory:", traj_id)
        assert config.steps <= lengths[traj_id], "the repeated last frame would be compared"
        mse = np.float64(0.01 * (traj_id + 1))
        print("Unnormalized Action MSE across single traj:", mse)
        print("MSE:", mse)
        all_mse.append(mse)
    print("Average MSE across all trajs:", np.mean(all_mse))
    print("Done")


if __name__ == "__main__":
    main(tyro.cli(ArgsConfig))
