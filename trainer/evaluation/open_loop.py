"""Upstream's open-loop protocol (``scripts/eval_policy.py`` and ``gr00t/utils/eval.py``), with the yardstick it lacks.

At every ``action_horizon``-th frame of an episode the policy predicts a chunk of actions from the camera images and the
state; the chunks, put end to end, are compared with the demonstrated actions. The mean squared error is in the action's
own units, so it says little by itself: beside it stands the variance of the demonstrated actions, which is the error of
the best constant prediction. An error near the variance means that nothing was learned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trainer.errors import EngineError


class ObservationSource(Protocol):
    """Raw data of a dataset's frames, before any transform."""

    lengths: dict[int, int]
    """Frames of each episode, by episode id."""

    def get_step_data(self, trajectory_id: int, base_index: int) -> dict[str, Any]:
        """``video.*`` uint8 (T,H,W,C), ``state.*`` (T,D), ``action.*`` (H,D), annotations as lists of str."""
        ...


class ActionPredictor(Protocol):
    """What is evaluated: a ``Policy``."""

    def get_action(self, observation: dict[str, Any]) -> dict[str, NDArray[np.floating]]:
        """Predicted ``action.*`` (H,D) in raw units."""
        ...


@dataclass(frozen=True)
class Trajectory:
    """Demonstrated and predicted actions of one episode.

    Attributes:
        episode: The episode's id.
        demonstrated: (steps, D) in raw units.
        predicted: (steps, D) in raw units.
        queried: Frames at which the policy was asked.
        names: One name per action dimension, such as ``right_arm[3]``.

    """

    episode: int
    demonstrated: NDArray[np.float64]
    predicted: NDArray[np.float64]
    queried: tuple[int, ...]
    names: tuple[str, ...]

    @property
    def mse(self) -> float:
        """Mean over steps and dimensions of the squared error, as upstream prints it."""
        return float(np.mean((self.demonstrated - self.predicted) ** 2))


def evaluate_episode(
    policy: ActionPredictor,
    source: ObservationSource,
    episode: int,
    *,
    keys: Sequence[str],
    steps: int,
    action_horizon: int,
) -> Trajectory:
    """Run the protocol on one episode of ``source``.

    ``keys`` are action keys without prefix (``right_arm``), concatenated in this order; ``steps`` is the number of
    frames to compare (a shorter episode is compared over its own length); ``action_horizon`` is the number of actions
    taken from each predicted chunk. Raises ``EngineError`` when the policy predicts something that is not a number.
    """
    steps = min(steps, source.lengths[episode])
    demonstrated, predicted = [], []
    names: tuple[str, ...] = ()
    queried = tuple(range(0, steps, action_horizon))
    for frame in queried:
        data = source.get_step_data(episode, frame)
        observation = {name: value for name, value in data.items() if not name.startswith("action.")}
        chunk = policy.get_action(observation)
        demonstrated.append(_rows(data, keys, action_horizon))
        predicted.append(_rows(chunk, keys, action_horizon))
        widths = {key: np.atleast_2d(data[f"action.{key}"]).shape[-1] for key in keys}
        names = tuple(f"{key}[{dimension}]" for key, width in widths.items() for dimension in range(width))
    trajectory = Trajectory(
        episode=episode,
        demonstrated=np.concatenate(demonstrated)[:steps],
        predicted=np.concatenate(predicted)[:steps],
        queried=queried,
        names=names,
    )
    if not np.isfinite(trajectory.predicted).all():
        raise EngineError(
            f"The policy predicts NaN or infinite actions on episode {episode}.",
            "The training diverged: lower --learning-rate, or evaluate an earlier checkpoint.",
        )
    return trajectory


def _rows(data: dict[str, Any], keys: Sequence[str], horizon: int) -> NDArray[np.float64]:
    columns = [np.asarray(data[f"action.{key}"], dtype=np.float64) for key in keys]
    return np.concatenate([column.reshape(len(column), -1)[:horizon] for column in columns], axis=1)


def summarise(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """The metrics of an evaluation.

    Returns:
        ``open_loop_mse``: mean of the episodes' errors, as upstream averages them; ``action_variance``: mean over
        dimensions of the demonstrated actions' variance over all compared frames; ``open_loop_mse_over_variance``:
        their ratio, where 0 is perfect and 1 is no better than always predicting the mean action.
    """
    mse = float(np.mean([trajectory.mse for trajectory in trajectories]))
    variance = float(np.concatenate([trajectory.demonstrated for trajectory in trajectories]).var(axis=0).mean())
    metrics = {"open_loop_mse": mse, "action_variance": variance}
    if variance > 0:
        metrics["open_loop_mse_over_variance"] = mse / variance
    return metrics


def evaluate_episodes(
    policy: ActionPredictor,
    source: ObservationSource,
    episodes: Sequence[int],
    *,
    keys: Sequence[str],
    steps: int,
    action_horizon: int,
    on_episode: Callable[[Trajectory], None] = lambda _: None,
) -> list[Trajectory]:
    """``evaluate_episode`` for each of ``episodes``; ``on_episode`` hears of each as it ends."""
    trajectories = []
    for episode in episodes:
        trajectory = evaluate_episode(policy, source, episode, keys=keys, steps=steps, action_horizon=action_horizon)
        trajectories.append(trajectory)
        on_episode(trajectory)
    return trajectories
