"""Statistics that actions and states are normalised with: by key, and for relative actions by step of the horizon.

Upstream keeps relative statistics in ``meta/relative_stats.json`` by the action key alone, where they outlive a change
of horizon or of what the action is relative to. Here they are computed from the data each time they are needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from trainer.data.data_config import Feature
from trainer.data.n17 import poses
from trainer.errors import DatasetError
from trainer.wrong_values import first_problem

_NAMES = ("min", "max", "mean", "std", "q01", "q99")
"""In the order upstream writes them."""


class KeyStatistics(BaseModel):
    """Statistics of one key: ``[D]``, or ``[H, D]`` of a relative action."""

    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True)

    min: Any
    max: Any
    mean: Any
    std: Any
    q01: Any
    q99: Any

    @model_validator(mode="after")
    def _are_numbers(self) -> KeyStatistics:
        shapes = set()
        for name in _NAMES:
            try:
                values = np.asarray(getattr(self, name), dtype=np.float64)
            except (TypeError, ValueError):
                raise ValueError(f"{name} is not a list of numbers") from None
            if values.ndim not in (1, 2) or not np.isfinite(values).all():
                raise ValueError(f"{name} has numbers that are not finite, or no dimensions")
            object.__setattr__(self, name, values)
            shapes.add(values.shape)
        if len(shapes) > 1:
            raise ValueError(f"its lists have different lengths: {', '.join(map(str, sorted(shapes)))}")
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """``(D,)`` or ``(H, D)``."""
        return self.min.shape

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {name: getattr(self, name).tolist() for name in _NAMES}


class TagStatistics(BaseModel):
    """All statistics of one embodiment tag, as ``statistics.json`` of a checkpoint has them."""

    model_config = ConfigDict(frozen=True)

    state: dict[str, KeyStatistics]
    action: dict[str, KeyStatistics]
    relative_action: dict[str, KeyStatistics] = {}

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        groups = {"state": self.state, "action": self.action, "relative_action": self.relative_action}
        return {name: {key: each.plain() for key, each in group.items()} for name, group in groups.items()}


def read(values: Mapping[str, Any], where: str) -> dict[str, TagStatistics]:
    """``statistics.json``: the statistics of every tag. Raises ``DatasetError`` naming tag, key and list.

    Entries beside the statistics, such as the fingerprints that a later upstream adds, are skipped.
    """
    found = {}
    for tag, groups in values.items():
        try:
            found[tag] = TagStatistics(
                **{
                    name: {key: KeyStatistics.model_validate(each) for key, each in group.items() if "mean" in each}
                    for name, group in groups.items()
                    if name in TagStatistics.model_fields
                }
            )
        except (ValidationError, TypeError, AttributeError) as error:
            problem = first_problem(error) if isinstance(error, ValidationError) else str(error)
            raise DatasetError(
                f"{where}: the statistics of {tag} can't be used: {problem}.", "Download or copy the checkpoint again."
            ) from error
    return found


def of_values(values: np.ndarray) -> KeyStatistics:
    """Statistics over the first axis of float32 ``values`` ``[N, ...]``, population deviation, as upstream's."""
    values = np.asarray(values, dtype=np.float32)
    q01, q99 = np.quantile(values, [0.01, 0.99], axis=0)
    mean, std = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
    return KeyStatistics(min=values.min(axis=0), max=values.max(axis=0), mean=mean, std=std, q01=q01, q99=q99)


def of_relative(
    feature: Feature, episodes: Sequence[tuple[np.ndarray, np.ndarray]], horizon: int, where: str
) -> KeyStatistics:
    """Statistics ``[H, D]`` of a relative action, step by step, over every window that lies within its episode.

    ``episodes`` are the actions and states ``[T, D]`` of each. Raises ``DatasetError`` when none is as long as the
    horizon, or when state and action differ in width.
    """
    whole = [(action, state) for action, state in episodes if len(action) >= horizon]
    if not whole:
        raise too_short(where, horizon)
    widths = whole[0][0].shape[1], whole[0][1].shape[1]
    if widths[0] != widths[1]:
        raise DatasetError(
            f"{where}: action.{feature.key} has {widths[0]} dimensions, but state.{feature.relative_to}, which it is "
            f"relative to, has {widths[1]}.",
            "Make it relative to the state of the same joints, or leave relative_to out of the data config.",
        )
    steps = []
    for step in range(horizon):
        parts = []
        for action, state in whole:
            windows = len(action) - horizon + 1
            parts.append(to_relative(feature, action[step : step + windows], state[:windows]))
        steps.append(of_values(np.concatenate(parts)))
    return KeyStatistics(**{name: np.stack([getattr(each, name) for each in steps]) for name in _NAMES})


def too_short(where: str, horizon: int) -> DatasetError:
    """No episode of the dataset ``where`` has a whole horizon."""
    return DatasetError(
        f"{where}: no episode is as long as the {horizon} steps that are predicted at once.",
        "Record longer episodes, or declare a smaller action_horizon.",
    )


def to_relative(feature: Feature, action: np.ndarray, state: np.ndarray) -> np.ndarray:
    """``action`` ``[..., D]`` relative to ``state`` ``[..., D]``: their difference, or the pose seen from it."""
    return poses.relative(action, state, feature.pose) if feature.pose else action - state


def to_absolute(feature: Feature, action: np.ndarray, state: np.ndarray) -> np.ndarray:
    """The inverse of ``to_relative``."""
    return poses.absolute(action, state, feature.pose) if feature.pose else action + state


def merged(parts: Iterable[KeyStatistics], weights: Sequence[float]) -> KeyStatistics:
    """Statistics of several datasets as one, each with its weight: the widest range, and a mixture's mean and variance.

    Upstream takes the difference of two squares for the variance, whose rounding may make the root of a constant
    dimension NaN; here it can't become negative.
    """
    parts = list(parts)
    share = np.asarray(weights, dtype=np.float64) / np.sum(weights)

    def mixed(values: Iterable[np.ndarray]) -> np.ndarray:
        return np.tensordot(share, np.stack(list(values)), axes=1)

    mean = mixed(each.mean for each in parts)
    variance = mixed(each.std**2 + each.mean**2 for each in parts) - mean**2
    return KeyStatistics(
        min=np.min([each.min for each in parts], axis=0),
        max=np.max([each.max for each in parts], axis=0),
        mean=mean,
        std=np.sqrt(np.maximum(variance, 0)),
        q01=np.min([each.q01 for each in parts], axis=0),
        q99=np.max([each.q99 for each in parts], axis=0),
    )
