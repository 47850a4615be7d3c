"""The pictures of a report: predicted against demonstrated joints, and the loss."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trainer.config.settings import pippa_home
from trainer.evaluation.open_loop import Trajectory

# Both are read when matplotlib is imported: its font cache belongs with the others, and a container has no display.
os.environ.setdefault("MPLCONFIGDIR", str(pippa_home() / "cache" / "matplotlib"))
os.environ.setdefault("MPLBACKEND", "Agg")

import matplotlib.pyplot as plt

_COLUMNS = 4
_DPI = 110


def plot_open_loop(trajectory: Trajectory, path: Path) -> Path:
    """Draw one small chart per action dimension; dots mark the frames at which the policy was asked.

    Dimensions that never move are left out, so that the moving ones are large enough to read; the title counts them.
    """
    moving = [index for index in range(len(trajectory.names)) if np.ptp(trajectory.demonstrated[:, index]) > 1e-9]
    shown = moving or list(range(len(trajectory.names)))
    rows = -(-len(shown) // _COLUMNS)
    width, height = 4 * _COLUMNS, 2.2 * rows + 0.5
    figure, axes = plt.subplots(rows, _COLUMNS, figsize=(width, height), squeeze=False, sharex=True)
    # Margins in inches: a layout that is computed draws everything twice.
    figure.subplots_adjust(
        left=0.65 / width,
        right=1 - 0.15 / width,
        bottom=0.5 / height,
        top=1 - 0.65 / height,
        wspace=0.2,
        hspace=0.2,
    )
    for axis in axes.flat[len(shown) :]:
        axis.set_visible(False)
    for axis, index in zip(axes.flat, shown, strict=False):
        axis.plot(trajectory.demonstrated[:, index], color="0.35", linewidth=1.6, label="demonstrated")
        axis.plot(trajectory.predicted[:, index], color="tab:orange", linewidth=1.2, label="predicted")
        queried = list(trajectory.queried)
        axis.plot(queried, trajectory.predicted[queried, index], "o", color="tab:red", markersize=2.5, label="asked")
        axis.set_title(trajectory.names[index], fontsize=9)
        axis.tick_params(labelsize=7)
        # A joint that barely moves must not look as if it were all over the place.
        low, high = axis.get_ylim()
        if high - low < 0.05:
            middle = (low + high) / 2
            axis.set_ylim(middle - 0.025, middle + 0.025)
    axes.flat[0].legend(fontsize=7)
    still = len(trajectory.names) - len(shown)
    figure.suptitle(
        f"Episode {trajectory.episode}: open-loop MSE {trajectory.mse:.4g}"
        + (f" ({still} dimensions that never move are not shown)" if still else ""),
        fontsize=11,
    )
    figure.supxlabel("frame", fontsize=9)
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)
    return path


def loss_history(trainer_state: Path) -> list[tuple[int, float]]:
    """(step, loss) pairs from a ``trainer_state.json``."""
    history = json.loads(trainer_state.read_text())["log_history"]
    return [(int(row["step"]), float(row["loss"])) for row in history if "loss" in row]


def plot_loss(history: Sequence[tuple[int, float]], path: Path) -> Path:
    """Draw the training loss over steps, on a logarithmic axis."""
    figure, axis = plt.subplots(figsize=(8, 4))
    steps, losses = zip(*history, strict=True)
    axis.plot(steps, losses, marker="o", markersize=3)
    axis.set_yscale("log")
    axis.set_xlabel("step")
    axis.set_ylabel("flow-matching loss")
    axis.grid(visible=True, which="both", alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)
    return path
