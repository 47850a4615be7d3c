"""Normalisation of one key, forward and inverse (upstream's ``Normalizer`` in ``transform/state_action.py``)."""

from __future__ import annotations

import numpy as np

from trainer.data.configs import Normalisation
from trainer.data.statistics import Statistics
from trainer.errors import UsageError


def normalise(values: np.ndarray, mode: Normalisation, statistics: Statistics) -> np.ndarray:
    """Normalise ``values`` ``[..., D]``.

    - ``min_max``: to [-1, 1] over the data's range, not clipped; a dimension that never moves becomes 0.
    - ``q99``: to [-1, 1] between the 1 % and 99 % quantiles, clipped; where these coincide, the clipped value itself.
    - ``mean_std``: zero mean and unit deviation; where the deviation is 0, the value itself.
    - ``scale``: divided by the largest magnitude; 0 where that is 0.
    - ``binary``: 1 above 0.5, else 0.
    """
    if mode == "binary":
        return (values > 0.5).astype(np.float64)
    if mode == "min_max":
        low, high = np.array(statistics.min), np.array(statistics.max)
        return _divide(values - low, high - low, otherwise=0.5) * 2 - 1
    if mode == "q99":
        low, high = np.array(statistics.q01), np.array(statistics.q99)
        scaled = _divide(values - low, high - low, otherwise=0.0) * 2 - 1
        return np.clip(np.where(low == high, values, scaled), -1, 1)
    if mode == "mean_std":
        mean, std = np.array(statistics.mean), np.array(statistics.std)
        return np.where(std == 0, values, _divide(values - mean, std, otherwise=0.0))
    return _divide(values, np.maximum(np.abs(statistics.min), np.abs(statistics.max)), otherwise=0.0)


def unnormalise(values: np.ndarray, mode: Normalisation, statistics: Statistics) -> np.ndarray:
    """The inverse of ``normalise``, as far as there is one: clipped, constant and binary values don't come back.

    A constant dimension gives its constant under ``min_max``. Raises ``UsageError`` for ``scale``, which upstream
    does not invert either.
    """
    if mode == "binary":
        return (values > 0.5).astype(np.float64)
    if mode == "mean_std":
        return values * np.array(statistics.std) + np.array(statistics.mean)
    if mode == "scale":
        raise UsageError("`scale` has no inverse.", "Use min_max for actions.")
    low, high = (statistics.min, statistics.max) if mode == "min_max" else (statistics.q01, statistics.q99)
    return (values + 1) / 2 * (np.array(high) - np.array(low)) + np.array(low)


def _divide(numerator: np.ndarray, denominator: np.ndarray, otherwise: float) -> np.ndarray:
    fallback = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), otherwise)
    return np.divide(numerator, denominator, out=fallback, where=denominator != 0)
