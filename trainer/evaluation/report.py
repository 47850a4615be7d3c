"""The files of an evaluation: plots, and ``evaluation.json``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from trainer.evaluation.open_loop import Trajectory
from trainer.store.evaluation import Evaluation


def write_report(folder: Path, checkpoint: Path, found: Evaluation, trajectories: Sequence[Trajectory]) -> None:
    """Write the plots of ``trajectories``, the loss of the training and all figures into ``folder``."""
    from trainer.evaluation.plots import loss_history, plot_loss, plot_open_loop

    folder.mkdir(parents=True, exist_ok=True)
    for trajectory in trajectories:
        plot_open_loop(trajectory, folder / f"open_loop_episode_{trajectory.episode}.png")
    state = checkpoint / "trainer_state.json"
    history = loss_history(state) if state.is_file() else []
    if history:
        plot_loss(history, folder / "loss.png")
    document = {
        **found.model_dump(mode="json"),
        "metrics": found.metrics(),
        "on": found.on,
        "loss": history,
    }
    (folder / "evaluation.json").write_text(json.dumps(document, indent=2) + "\n")
