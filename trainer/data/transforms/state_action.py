"""States and actions: from raw keys to one normalised vector, and actions back.

Computed in float64, as upstream does up to the model's input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import pi

import numpy as np

from trainer.data.configs import Feature
from trainer.data.dataset_meta import RotationType
from trainer.data.metadata import DatasetMetadata, StateActionMetadata
from trainer.data.statistics import Statistics
from trainer.data.transforms import rotations
from trainer.data.transforms.normalise import normalise, unnormalise
from trainer.errors import DatasetError, UsageError


@dataclass(frozen=True)
class _Step:
    """A feature bound to a dataset: what to do with the key's raw values."""

    feature: Feature
    metadata: StateActionMetadata
    statistics: Statistics
    """Statistics of what is normalised: the data's own, or the bounds of the target rotation."""

    @property
    def raw_width(self) -> int:
        return self.metadata.shape[0]

    @property
    def width(self) -> int:
        if self.feature.sin_cos:
            return 2 * self.raw_width
        return rotations.width(self.feature.rotation) if self.feature.rotation else self.raw_width

    def forward(self, values: np.ndarray) -> np.ndarray:
        if self.feature.sin_cos:
            return np.concatenate([np.sin(values), np.cos(values)], axis=-1)
        source, target = self.metadata.rotation_type, self.feature.rotation
        if source and target:
            values = rotations.convert(values, source, target)
        return normalise(values, self.feature.normalise, self.statistics) if self.feature.normalise else values

    def inverse(self, values: np.ndarray) -> np.ndarray:
        if self.feature.normalise:
            values = unnormalise(values, self.feature.normalise, self.statistics)
        source, target = self.metadata.rotation_type, self.feature.rotation
        return rotations.convert(values, target, source) if source and target else values


class StateActionTransform:
    """The transform of all state keys, or of all action keys, of a data config on a dataset.

    Raises ``DatasetError`` when the dataset lacks a key or describes it in a way the processing can't be applied to.
    """

    def __init__(self, modality: str, features: Sequence[Feature], metadata: DatasetMetadata) -> None:
        self.modality = modality
        self._steps = [_bind(modality, feature, metadata) for feature in features]
        self.width = sum(step.width for step in self._steps)
        """Dimensions of the concatenated vector."""
        for step in self._steps:
            if modality == "action" and (step.feature.sin_cos or step.width != step.raw_width):
                raise UsageError(
                    f"action.{step.feature.key} would change its width from {step.raw_width} to {step.width}.",
                    "Upstream allows that for states only; keep the action's own representation.",
                )

    def forward(self, raw: Mapping[str, np.ndarray]) -> np.ndarray:
        """``{"state.left_arm": [..., 7], …}`` to one float64 ``[..., width]``, keys in the data config's order."""
        parts = []
        for step in self._steps:
            values = np.asarray(raw[f"{self.modality}.{step.feature.key}"], dtype=np.float64)
            if values.shape[-1] != step.raw_width:
                raise UsageError(
                    f"{self.modality}.{step.feature.key} has {values.shape[-1]} dimensions, not {step.raw_width}.",
                    "Pass the vector the dataset has under this key.",
                )
            parts.append(step.forward(values))
        return np.concatenate(parts, axis=-1)

    def inverse(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        """A normalised ``[..., >= width]`` back to raw keys, float64; padding beyond ``width`` is dropped."""
        raw, start = {}, 0
        for step in self._steps:
            part = np.asarray(vector[..., start : start + step.width], dtype=np.float64)
            raw[f"{self.modality}.{step.feature.key}"] = step.inverse(part)
            start += step.width
        return raw

    def padding(self) -> np.ndarray:
        """What a step beyond the episode's end becomes, ``[width]``: raw zeros for relative keys, NaN for absolute
        ones, which repeat the last row instead.
        """
        parts = [
            np.full(step.width, np.nan) if step.metadata.absolute else step.forward(np.zeros(step.raw_width))
            for step in self._steps
        ]
        return np.concatenate(parts)


def _bind(modality: str, feature: Feature, metadata: DatasetMetadata) -> _Step:
    name = f"{modality}.{feature.key}"
    described = getattr(metadata.modalities, modality).get(feature.key)
    if described is None:
        raise DatasetError(
            f"The data config uses {name}, which meta/modality.json does not define.",
            "Add it there, or use a data config that fits: `pippa data check` names them.",
        )
    statistics = getattr(metadata.statistics, modality)[feature.key]
    source, target = described.rotation_type, feature.rotation
    if target and source is None:
        raise DatasetError(
            f"{name} is to become {target}, but meta/modality.json does not say what rotation it is.",
            "Give it a rotation_type there, such as quaternion or axis_angle.",
        )
    if source and target and described.shape[0] != rotations.width(source):
        raise DatasetError(
            f"{name} has {described.shape[0]} dimensions; a rotation of type {source} has {rotations.width(source)}.",
            "Correct start, end or rotation_type in meta/modality.json.",
        )
    if target and source != target and feature.normalise:
        if not described.absolute or feature.normalise != "min_max":
            raise DatasetError(
                f"{name}: a converted rotation can only be normalised when it is absolute, with min_max.",
                "Leave it as it is (normalise=None); the bounds of relative rotations are not known.",
            )
        statistics = _bounds(target)
    elif feature.normalise not in (None, "binary") and not described.continuous:
        raise DatasetError(
            f"{name} holds integers, which only binary normalisation suits.",
            "Set its dtype to float64 in meta/modality.json, or normalise it as binary.",
        )
    return _Step(feature, described, statistics)


def _bounds(rotation: RotationType) -> Statistics:
    """Range of a representation: angles to ±pi, components to ±1."""
    limit = pi if rotation == "axis_angle" or rotation.startswith("euler") else 1.0
    low, high = [-limit] * rotations.width(rotation), [limit] * rotations.width(rotation)
    return Statistics(max=high, min=low, mean=low, std=high, q01=low, q99=high)
