"""Stored statistics against the values they are to describe."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from trainer.data.problem import Problem
from trainer.data.statistics import Statistics

_WIDER = 0.01
"""Of the stored range: a smaller difference is rounding, or a row that was dropped."""
_ROUNDING = 1e-3


def check_ranges(
    file: Path, column: str, stored: Statistics, low: np.ndarray, high: np.ndarray, used: np.ndarray
) -> Iterator[tuple[bool, Problem]]:
    """What the statistics of ``column`` say otherwise than its values, which lie in ``low`` to ``high`` ``[D]``.

    Only the dimensions in ``used`` ``[D]`` count. True beside what training would suffer from: values outside the
    stored range, which normalisation takes far beyond [-1, 1].
    """
    width = min(len(stored.min), len(low))
    least, most = np.array(stored.min[:width]), np.array(stored.max[:width])
    low, high, used = low[:width].astype(np.float64), high[:width].astype(np.float64), used[:width]
    spread = most - least
    slack = _ROUNDING * spread + 1e-5 * np.maximum(np.abs(least), np.abs(most)) + 1e-9
    beyond = np.where(used, np.maximum(least - low, high - most), -np.inf)
    if (beyond > slack).any():
        worst = int(np.argmax(beyond - slack))
        yield (
            True,
            Problem(
                f"{file}: {column}[{worst}] is {low[worst]:g} to {high[worst]:g} in the tables, and "
                f"{least[worst]:g} to {most[worst]:g} here: the file is older than the data, or of other data",
                "Train with --recompute-statistics, which computes them from the data and is recorded with the run; or "
                "delete the file.",
            ),
        )
        return
    wider = np.where(used, np.maximum(low - least, most - high), 0.0)
    if (wider > _WIDER * spread + slack).any():
        worst = int(np.argmax(wider - _WIDER * spread - slack))
        yield (
            False,
            Problem(
                f"{file}: {column}[{worst}] is {least[worst]:g} to {most[worst]:g} here, and only {low[worst]:g} to "
                f"{high[worst]:g} in the tables",
                "The statistics are of more data than this, and are used as they are: normalised values fill a part of "
                "[-1, 1] only. --recompute-statistics computes them from the data.",
            ),
        )
