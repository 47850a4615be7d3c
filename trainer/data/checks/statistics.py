"""Stored statistics against the values they are to describe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainer.data.problem import Problem
from trainer.data.statistics import Statistics

_WIDER = 0.01
"""Of the stored range: a smaller difference is rounding, or a row that was dropped."""
_ROUNDING = 1e-3


class RangesCompared(NamedTuple):
    """What statistics say otherwise than the values."""

    problems: list[Problem]
    beyond: bool = False
    """Whether there are values outside the stored range, which normalisation takes far beyond [-1, 1]."""


def compare_ranges(
    file: Path,
    column: str,
    stored: Statistics,
    low: np.ndarray,
    high: np.ndarray,
    used: np.ndarray,
    names: Sequence[str] | None = None,
) -> RangesCompared:
    """Hold the statistics of ``column`` in ``file`` against its values, which lie in ``low`` to ``high`` ``[D]``.

    Only the dimensions in ``used`` ``[D]`` count; ``names`` are those of all.
    """
    width = min(len(stored.min), len(low))
    least, most = np.array(stored.min[:width]), np.array(stored.max[:width])
    low, high, used = low[:width].astype(np.float64), high[:width].astype(np.float64), used[:width]
    spread = most - least
    slack = _ROUNDING * spread + 1e-5 * np.maximum(np.abs(least), np.abs(most)) + 1e-9
    beyond = np.where(used, np.maximum(least - low, high - most) - slack, -np.inf)
    wider = np.where(used, np.maximum(low - least, most - high) - slack - _WIDER * spread, -np.inf)
    is_beyond = bool((beyond > 0).any())
    if not is_beyond and not (wider > 0).any():
        return RangesCompared([])
    worst = int(np.argmax(beyond if is_beyond else wider))
    what = f"{column}[{worst}]" + (f" ({names[worst]})" if names else "")
    data, detail = f"{low[worst]:g} to {high[worst]:g}", f"{least[worst]:g} to {most[worst]:g}"
    if is_beyond:
        problem = Problem(
            f"{file}: {what} is {data} in the tables, and {detail} here: the file is older than the data, or of other "
            "data",
            "Train with --recompute-statistics, which computes them from the data and is recorded with the run; or "
            "delete the file.",
        )
    else:
        problem = Problem(
            f"{file}: {what} is {detail} here, and only {data} in the tables",
            "The statistics are of more data than this, and are used as they are: normalised values fill a part of "
            "[-1, 1] only. --recompute-statistics computes them from the data.",
        )
    return RangesCompared([problem], is_beyond)
