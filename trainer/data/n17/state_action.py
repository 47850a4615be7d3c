"""States and actions of N1.7: from raw keys to the model's padded vectors, and predictions back to the robot's units.

Follows upstream's ``gr00t/data/state_action/state_action_processor.py``: relative actions first, then the range or
z-scores, then clipping. Values keep their precision as upstream's do, float32 for what is read and float64 for what is
relative.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from trainer.data.data_config import DataConfig, Feature
from trainer.data.n17 import poses
from trainer.data.n17.settings import ProcessorSettings
from trainer.data.n17.statistics import KeyStatistics, TagStatistics, to_absolute, to_relative
from trainer.errors import DatasetError, UsageError


@dataclass(frozen=True)
class _Key:
    """One key with its statistics."""

    feature: Feature
    statistics: KeyStatistics
    settings: ProcessorSettings
    relative: bool

    @property
    def width(self) -> int:
        return self.statistics.shape[-1]

    @cached_property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest value ``[D]`` or, of a relative action, ``[H, D]``."""
        if self.settings.use_percentiles and not self.relative:
            return self.statistics.q01, self.statistics.q99
        return self.statistics.min, self.statistics.max

    def scaled(self, values: np.ndarray) -> np.ndarray:
        """``values`` to [-1, 1] over their range; 0 where the range is nothing. Not clipped."""
        low, high = self.bounds
        fraction = np.divide(values - low, high - low, out=np.full(values.shape, 0.5), where=self._moves)
        return 2 * fraction.astype(values.dtype) - 1

    @cached_property
    def _moves(self) -> np.ndarray:
        """Whether a dimension has a range."""
        low, high = self.bounds
        return ~np.isclose(high, low)

    def unscaled(self, values: np.ndarray) -> np.ndarray:
        """The inverse, of what is cut to [-1, 1] first."""
        low, high = self.bounds
        return (np.clip(values, -1.0, 1.0) + 1) / 2 * (high - low) + low

    def standardised(self, values: np.ndarray) -> np.ndarray:
        """Z-scores; the values themselves where they never change."""
        mean, std = self.statistics.mean, self.statistics.std
        return np.where(std == 0, values, (values - mean) / np.where(std == 0, 1, std)).astype(values.dtype)

    def unstandardised(self, values: np.ndarray) -> np.ndarray:
        """The inverse."""
        mean, std = self.statistics.mean, self.statistics.std
        return np.where(std == 0, values, values * std + mean).astype(values.dtype)


class StateActionProcessor:
    """Normalises and pads the states and actions of one embodiment, and turns predicted actions back.

    ``statistics`` are the embodiment's. Raises ``UsageError`` where data config and settings contradict each other, and
    ``DatasetError`` where the statistics don't fit them.
    """

    def __init__(self, config: DataConfig, settings: ProcessorSettings, statistics: TagStatistics) -> None:
        self.config, self.settings = config, settings
        if config.action_horizon > settings.max_action_horizon:
            raise UsageError(
                f"{config.name} predicts {config.action_horizon} steps; the model takes {settings.max_action_horizon}.",
                f"Declare an action_horizon of at most {settings.max_action_horizon}.",
            )
        self._states = [self._bind("state", feature, statistics) for feature in config.state]
        self._actions = [self._bind("action", feature, statistics) for feature in config.action]
        widths = {"state": self.state_width, "action": sum(key.width for key in self._actions)}
        for modality, width in widths.items():
            if width > (limit := getattr(settings, f"max_{modality}_dim")):
                raise UsageError(
                    f"The {modality}s of {config.name} have {width} dimensions; the model takes {limit}.",
                    f"Use a data config with fewer {modality} keys.",
                )

    @property
    def state_width(self) -> int:
        """Dimensions of the normalised state."""
        return sum(key.width * (2 if self._turns(key) else 1) for key in self._states)

    def _turns(self, key: _Key) -> bool:
        return key.feature.sin_cos and self.settings.apply_sincos_state_encoding

    def _bind(self, modality: str, feature: Feature, statistics: TagStatistics) -> _Key:
        name = f"{modality}.{feature.key}"
        relative = bool(feature.relative_to) and self.settings.use_relative_action
        group = "relative_action" if relative else modality
        found = getattr(statistics, group).get(feature.key)
        if found is None:
            raise DatasetError(
                f"There are no {group.replace('_', ' ')} statistics of {feature.key}.",
                f"Use a data config without {name}, or a checkpoint that was trained with it.",
            )
        expected = 2 if relative else 1
        if len(found.shape) != expected or (relative and found.shape[0] != self.config.action_horizon):
            raise DatasetError(
                f"The statistics of {name} are those of {found.shape[0]} steps; {self.config.name} predicts "
                f"{self.config.action_horizon}.",
                "They belong to another horizon: compute them from the data again.",
            )
        if feature.pose and found.shape[-1] != poses.width(feature.pose):
            raise DatasetError(
                f"{name} has {found.shape[-1]} dimensions; a pose of {feature.pose} has {poses.width(feature.pose)}.",
                "Correct start and end in meta/modality.json, or the pose in the data config.",
            )
        if relative and (state := statistics.state.get(feature.relative_to or "")) and state.shape != found.shape[-1:]:
            raise DatasetError(
                f"{name} has {found.shape[-1]} dimensions, but state.{feature.relative_to}, which it is relative to, "
                f"has {state.shape[0]}.",
                "Make it relative to the state of the same joints, or leave relative_to out.",
            )
        return _Key(feature, found, self.settings, relative)

    def state(self, raw: Mapping[str, np.ndarray]) -> np.ndarray:
        """Raw states ``{key: [..., T, D]}`` to float32 ``[..., T, max_state_dim]``, zero-padded; ``[1, max_state_dim]``
        without a key. Zeros with ``exclude_state``.
        """
        parts = []
        for key in self._states:
            values = _of_width(raw[key.feature.key], key, "state")
            if self.settings.exclude_state:
                parts.append(np.zeros_like(values))
            elif self._turns(key):
                parts.append(np.concatenate([np.sin(values), np.cos(values)], axis=-1))
            elif key.feature.normalise == "mean_std":
                parts.append(key.standardised(values))
            else:
                scaled = key.scaled(values)
                parts.append(np.clip(scaled, -1.0, 1.0) if self.settings.clip_outliers else scaled)
        steps = parts[0].shape[-2] if parts else 1
        return _padded(parts, (steps, self.settings.max_state_dim))

    def relative_action(self, raw: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Raw actions ``{key: [..., H, D]}``, the relative ones relative to the last row of raw ``state``
        ``{key: [..., T, D]}``, float64.
        """
        return {
            key.feature.key: (
                to_relative(
                    key.feature,
                    np.asarray(raw[key.feature.key], dtype=np.float64),
                    np.asarray(state[str(key.feature.relative_to)], dtype=np.float64)[..., -1:, :],
                )
                if key.relative
                else _of_width(raw[key.feature.key], key, "action")
            )
            for key in self._actions
        }

    def normalised_action(
        self, raw: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Raw actions and states ``{key: [..., H, D]}`` to normalised actions, key by key."""
        found = {}
        for key, values in zip(self._actions, self.relative_action(raw, state).values(), strict=True):
            z_scores = key.feature.normalise == "mean_std"
            values = key.standardised(values) if z_scores else key.scaled(values)
            clips = self.settings.clip_outliers and (not z_scores or self.settings.upstream_exact)
            found[key.feature.key] = np.clip(values, -1.0, 1.0) if clips else values
        return found

    def action(self, raw: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Raw actions ``{key: [..., H, D]}`` to float32 ``[..., max_action_horizon, max_action_dim]``, zero-padded, and
        a mask of that shape, 1 where there are actions.
        """
        parts = list(self.normalised_action(raw, state).values())
        padded = _padded(parts, (self.settings.max_action_horizon, self.settings.max_action_dim))
        mask = np.zeros_like(padded)
        mask[..., : self.config.action_horizon, : sum(part.shape[-1] for part in parts)] = 1
        return padded, mask

    def decode(self, action: np.ndarray, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Predicted actions ``[..., max_action_horizon, max_action_dim]`` as ``{key: [..., H, D]}`` in the robot's
        units. Raw states ``{key: [..., T, D]}`` are what the relative ones are relative to.
        """
        found, start = {}, 0
        for key in self._actions:
            values = action[..., : self.config.action_horizon, start : start + key.width]
            start += key.width
            values = key.unstandardised(values) if key.feature.normalise == "mean_std" else key.unscaled(values)
            if key.relative:
                origin = np.asarray(state[str(key.feature.relative_to)], dtype=np.float64)[..., -1:, :]
                values = to_absolute(key.feature, values, origin)
            found[key.feature.key] = values
        return found


def _of_width(values: np.ndarray, key: _Key, modality: str) -> np.ndarray:
    values = np.asarray(values)
    if values.shape[-1] != key.width:
        raise UsageError(
            f"{modality}.{key.feature.key} has {values.shape[-1]} dimensions, not {key.width}.",
            "Pass the vector the dataset has under this key.",
        )
    return values


def _padded(parts: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """``parts`` ``[..., H, D]`` side by side, float32 ``[..., *shape]``."""
    padded = np.zeros((*parts[0].shape[:-2], *shape) if parts else shape, dtype=np.float32)
    if parts:
        joined = np.concatenate(parts, axis=-1)
        padded[..., : joined.shape[-2], : joined.shape[-1]] = joined
    return padded
