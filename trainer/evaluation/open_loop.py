"""Upstream's open-loop protocol (``scripts/eval_policy.py`` and ``gr00t/utils/eval.py``), with the yardsticks it lacks.

At every ``action_horizon``-th frame of an episode the policy predicts a chunk of actions from the camera images and the
state; the chunks, put end to end, are compared with the demonstrated actions. The mean squared error is in the
action's own units, so it says little by itself. Two baselines stand beside it: the variance of the demonstrated
actions, which is the error of the best constant prediction, and *holding still*, which repeats the action before
each question (at an episode's beginning, with its first). Chunks are short, so that holding still is hard to beat by
anything that has not learned the motion.

Everything that is drawn at random is known from the episode and the frame alone: two evaluations of a checkpoint agree,
and two checkpoints, or two versions of the input, are asked the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trainer.errors import EngineError

BATCH = 16
"""Questions asked at once."""

Step = Mapping[str, Any]
Change = Callable[[int, int, Step], Step]
"""``change(episode, frame, step)`` gives what is shown instead of ``step``."""


class ObservationSource(Protocol):
    """Raw data of a dataset's frames, before any transform."""

    lengths: dict[int, int]
    """Frames of each episode, by episode id."""

    def get_step_data(self, trajectory_id: int, base_index: int) -> dict[str, Any]:
        """``video.*`` uint8 (T,H,W,C), ``state.*`` (T,D), ``action.*`` (H,D), annotations as lists of str."""
        ...


class ActionPredictor(Protocol):
    """What is evaluated: a ``Policy`` with its draws (``trainer.evaluation.predictor``)."""

    def predict(
        self, steps: Sequence[Step], frames: Sequence[tuple[int, int]]
    ) -> list[dict[str, NDArray[np.floating]]]:
        """Predicted ``action.*`` (H,D) in raw units for each observation, which is of (episode, frame)."""
        ...


@dataclass(frozen=True)
class Trajectory:
    """Demonstrated and predicted actions of one episode.

    Attributes:
        episode: The episode's id.
        demonstrated: (steps, D) in raw units.
        predicted: (steps, D) in raw units.
        held: (steps, D): the actions of holding still.
        queried: Frames at which the policy was asked.
        names: One name per action dimension, such as ``right_arm[3]``.

    """

    episode: int
    demonstrated: NDArray[np.float64]
    predicted: NDArray[np.float64]
    held: NDArray[np.float64]
    queried: tuple[int, ...]
    names: tuple[str, ...]

    @property
    def mse(self) -> float:
        """Mean over steps and dimensions of the squared error, as upstream prints it."""
        return float(np.mean(self.squared_errors))

    @property
    def hold_still_mse(self) -> float:
        """The same error of holding still."""
        return float(np.mean((self.demonstrated - self.held) ** 2))

    @property
    def squared_errors(self) -> NDArray[np.float64]:
        """(steps, D)."""
        return (self.demonstrated - self.predicted) ** 2


def evaluate_episode(
    policy: ActionPredictor,
    source: ObservationSource,
    episode: int,
    *,
    keys: Sequence[str],
    steps: int,
    action_horizon: int,
    relative: Sequence[str] = (),
    change: Change | None = None,
) -> Trajectory:
    """Run the protocol on one episode of ``source``.

    ``keys`` are action keys without prefix (``right_arm``), concatenated in this order; ``steps`` is the number of
    frames to compare (a shorter episode is compared over its own length); ``action_horizon`` is the number of actions
    taken from each predicted chunk. Of the keys in ``relative`` holding still is zero. ``change`` shows the policy
    something else than what was recorded. Raises ``EngineError`` when the policy predicts something that is no number.
    """
    steps = min(steps, source.lengths[episode])
    demonstrated, predicted, held = [], [], []
    queried = tuple(range(0, steps, action_horizon))
    names: tuple[str, ...] = ()
    for start in range(0, len(queried), BATCH):
        frames = queried[start : start + BATCH]
        data = [source.get_step_data(episode, frame) for frame in frames]
        shown = data if change is None else [change(episode, *each) for each in zip(frames, data, strict=True)]
        asked = [{name: value for name, value in step.items() if not name.startswith("action.")} for step in shown]
        chunks = policy.predict(asked, [(episode, frame) for frame in frames])
        for step, chunk in zip(data, chunks, strict=True):
            rows = _rows(step, keys, action_horizon)
            before = demonstrated[-1][-1] if demonstrated else rows[0]
            held.append(np.broadcast_to(before * _absolute(step, keys, relative), rows.shape))
            demonstrated.append(rows)
            predicted.append(_rows(chunk, keys, action_horizon))
        names = names or dimension_names(data[0], keys)
    trajectory = Trajectory(
        episode=episode,
        demonstrated=np.concatenate(demonstrated)[:steps],
        predicted=np.concatenate(predicted)[:steps],
        held=np.concatenate(held)[:steps],
        queried=queried,
        names=names,
    )
    if not np.isfinite(trajectory.predicted).all():
        raise EngineError(
            f"The policy predicts NaN or infinite actions on episode {episode}.",
            "The training diverged: lower --learning-rate, or evaluate an earlier checkpoint.",
        )
    return trajectory


def dimension_names(step: Step, keys: Sequence[str]) -> tuple[str, ...]:
    """``right_arm[0]``, … for every dimension of the actions in ``step``."""
    widths = {key: np.atleast_2d(step[f"action.{key}"]).shape[-1] for key in keys}
    return tuple(f"{key}[{dimension}]" for key, width in widths.items() for dimension in range(width))


def _rows(data: Step, keys: Sequence[str], horizon: int) -> NDArray[np.float64]:
    columns = [np.asarray(data[f"action.{key}"], dtype=np.float64) for key in keys]
    return np.concatenate([column.reshape(len(column), -1)[:horizon] for column in columns], axis=1)


def _absolute(step: Step, keys: Sequence[str], relative: Sequence[str]) -> NDArray[np.float64]:
    """1 for each dimension of an absolute action, 0 for each of a relative one, which zero holds still."""
    widths = [np.atleast_2d(step[f"action.{key}"]).shape[-1] for key in keys]
    return np.repeat([float(key not in relative) for key in keys], widths)


def summarise(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """The metrics of an evaluation.

    Returns:
        ``open_loop_mse``: mean of the episodes' errors, as upstream averages them; ``action_variance``: mean over
        dimensions of the demonstrated actions' variance over all compared frames; ``hold_still_mse``: the error of
        holding still; and the error as a share of both, where 0 is perfect and 1 is no better.
    """
    mse = float(np.mean([trajectory.mse for trajectory in trajectories]))
    still = float(np.mean([trajectory.hold_still_mse for trajectory in trajectories]))
    variance = float(np.concatenate([trajectory.demonstrated for trajectory in trajectories]).var(axis=0).mean())
    metrics = {"open_loop_mse": mse, "action_variance": variance, "hold_still_mse": still}
    if variance > 0:
        metrics["open_loop_mse_over_variance"] = mse / variance
    if still > 0:
        metrics["open_loop_mse_over_hold_still"] = mse / still
    return metrics


def evaluate_episodes(
    policy: ActionPredictor,
    source: ObservationSource,
    episodes: Sequence[int],
    *,
    keys: Sequence[str],
    steps: int,
    action_horizon: int,
    relative: Sequence[str] = (),
    change: Change | None = None,
    on_episode: Callable[[Trajectory], None] = lambda _: None,
) -> list[Trajectory]:
    """``evaluate_episode`` for each of ``episodes``; ``on_episode`` hears of each as it ends."""
    trajectories = []
    for episode in episodes:
        trajectory = evaluate_episode(
            policy,
            source,
            episode,
            keys=keys,
            steps=steps,
            action_horizon=action_horizon,
            relative=relative,
            change=change,
        )
        trajectories.append(trajectory)
        on_episode(trajectory)
    return trajectories
