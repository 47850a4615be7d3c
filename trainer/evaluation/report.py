"""The files of an evaluation: plots, what the page of the run draws them from, and ``evaluation.json``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.evaluation.open_loop import ObservationSource, Trajectory
from trainer.evaluation.recorded import RecordedEpisode, RecordedJoint, episode_name, strip_name
from trainer.store.evaluation import Evaluation

STRIP_FRAMES = 12
"""Pictures of a camera in a report, at most; between the first question of an episode and the last."""
STRIP_HEIGHT = 120
"""Pixels."""


def write_report(
    folder: Path,
    checkpoint: Path,
    found: Evaluation,
    trajectories: Sequence[Trajectory],
    source: ObservationSource | None = None,
    cameras: Sequence[str] = (),
) -> None:
    """Write the plots of ``trajectories``, the loss of the training and all figures into ``folder``.

    With ``source`` also what its ``cameras`` (keys without ``video.``) showed at some of the questions.
    """
    from trainer.evaluation.plots import loss_history, plot_loss, plot_open_loop

    folder.mkdir(parents=True, exist_ok=True)
    for trajectory in trajectories:
        plot_open_loop(trajectory, folder / f"open_loop_episode_{trajectory.episode}.png")
        _record(folder, found, trajectory, source, cameras)
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


def _record(
    folder: Path,
    found: Evaluation,
    trajectory: Trajectory,
    source: ObservationSource | None,
    cameras: Sequence[str],
) -> None:
    """Write one episode for the page, and a strip of each camera."""
    units = {joint.name: joint.unit for joint in found.joints}
    every = -(-len(trajectory.queried) // STRIP_FRAMES)
    shown = list(trajectory.queried[::every]) if source is not None and cameras else []
    recorded = RecordedEpisode(
        episode=trajectory.episode,
        trained_on=any(each.trained_on for each in found.episodes if each.episode == trajectory.episode),
        mse=trajectory.mse,
        asked=list(trajectory.queried),
        joints=[
            RecordedJoint(
                name=name,
                unit=units.get(name),
                demonstrated=_rounded(trajectory.demonstrated[:, index]),
                predicted=_rounded(trajectory.predicted[:, index]),
            )
            for index, name in enumerate(trajectory.names)
        ],
        cameras=list(cameras) if shown else [],
        shown=shown,
    )
    (folder / episode_name(trajectory.episode)).write_text(recorded.model_dump_json() + "\n")
    if source is None or not shown:
        return
    steps = [source.get_step_data(trajectory.episode, frame) for frame in shown]
    for number, camera in enumerate(cameras):
        pictures = [np.asarray(step[f"video.{camera}"])[-1] for step in steps]
        _write_strip(pictures, folder / strip_name(trajectory.episode, number))


def _rounded(values: NDArray[np.floating]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


def _write_strip(pictures: Sequence[NDArray[Any]], file: Path) -> None:
    """``pictures``, uint8 (H, W, 3), side by side in one small file."""
    from PIL import Image

    height, width = pictures[0].shape[:2]
    size = (max(round(width * STRIP_HEIGHT / height), 1), STRIP_HEIGHT)
    strip = Image.new("RGB", (len(pictures) * (size[0] + 2) - 2, STRIP_HEIGHT), "white")
    for number, picture in enumerate(pictures):
        strip.paste(Image.fromarray(picture).resize(size), (number * (size[0] + 2), 0))
    strip.save(file, quality=70)
