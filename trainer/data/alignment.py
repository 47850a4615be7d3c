"""Which frame of a video a row of the table means: the one rule, for training, evaluation and serving alike.

Row k means frame k when every row of the episode lies between half a period before and one period after its frame's
start. That covers stamps that are rounded, jitter, or were taken when the row was written, one period later, as in
Isaac-GR00T's demo dataset. Else, as with a camera faster than the table, the frame on screen at the row's time is
meant, and a row further than half a period from that frame's start contradicts the video: taking the clock at its word
would train on a wrong or a frozen picture.

Upstream takes the frame on screen whatever the distance (``gr00t/utils/video.py``).
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple, Protocol

import numpy as np

from trainer.config.data_options import VideoAlignment

_EARLY, _LATE = 0.25, 0.5
"""Periods that a row may lie before and after the start of the frame on screen."""
_SLACK = 0.01
"""Of a period, for rounding; a tick of the video's clock comes on top."""
SAME_RATE = 1.4
"""Rates that differ by less are meant to be one, so that a short episode of a fast camera is not paired by number."""


class ShownFrames(Protocol):
    """When the frames of a video are shown: ``FrameIndex``, or ``ClipIndex`` of a part of one."""

    @property
    def starts(self) -> np.ndarray:
        """float64 ``[N]`` seconds at which each comes on screen."""
        ...

    @property
    def time_base(self) -> Fraction:
        """Seconds of a tick."""
        ...


class Misaligned(NamedTuple):
    """A row that means no frame."""

    row: int
    time: float
    """Seconds, of the row."""
    frame: int
    """The frame it should be, by number where there are as many frames as rows, else the nearest."""
    start: float
    """Seconds, of that frame."""
    cause: str
    """What probably went wrong."""
    by_index: bool
    """Whether pairing by index is possible: there are as many frames as rows."""


def align(
    times: np.ndarray, index: ShownFrames, fps: float, alignment: VideoAlignment = "timestamp"
) -> np.ndarray | Misaligned:
    """The frame of each row, as positions ``[T]``, or the row that contradicts the video.

    ``times`` ``[T]`` are the rows' timestamps in seconds, ascending; ``index`` lists the video's N frames, and ``fps``
    is the rate of one with a single frame. With ``alignment`` "index", row k means frame k wherever T = N.
    """
    starts = index.starts
    rows, frames = len(times), len(starts)
    if alignment == "index" and rows == frames:
        return np.arange(rows)
    seconds = np.asarray(times, dtype=np.float64)
    period = period_of(index, fps)
    # Stamps are stored in float32, whose steps are coarse late in a long episode.
    rounding = 2 * np.spacing(np.abs(seconds).astype(np.float32)).astype(np.float64)
    slack = _SLACK * period + float(index.time_base) + rounding
    by_number = _by_number(seconds, starts, period)
    if by_number is not None and (_within(by_number, -0.5 * period - slack, period + slack)).all():
        return np.arange(rows)
    shown = np.clip(np.searchsorted(starts, seconds + _EARLY * period, side="right") - 1, 0, frames - 1)
    distance = seconds - starts[shown]
    earliest = np.where(shown == 0, -0.5, -_EARLY) * period
    good = _within(distance, earliest - slack, _LATE * period + slack)
    if good.all():
        return shown
    if by_number is None:
        row = int(np.flatnonzero(~good)[0])
        frame = int(np.abs(starts - seconds[row]).argmin())
    else:
        row = frame = int(np.flatnonzero(~_within(by_number, -0.5 * period - slack, period + slack))[0])
    cause = _cause(seconds, starts, period)
    return Misaligned(row, float(seconds[row]), frame, float(starts[frame]), cause, rows == frames)


def _by_number(seconds: np.ndarray, starts: np.ndarray, period: float) -> np.ndarray | None:
    """How far each row lies behind the frame of its number; None where the two can't be paired by number."""
    rows = len(seconds)
    if rows > len(starts):
        return None
    if rows > 1:
        ratio = (seconds[-1] - seconds[0]) / (rows - 1) / period
        if not 1 / SAME_RATE < ratio < SAME_RATE:
            return None
    return seconds - starts[:rows]


def _within(values: np.ndarray, low: np.ndarray | float, high: np.ndarray | float) -> np.ndarray:
    return (values >= low) & (values <= high)


def period_of(index: ShownFrames, fps: float) -> float:
    """Seconds from frame to frame, mostly; ``fps`` is the rate of a video of one frame."""
    gaps = np.diff(index.starts)
    return float(np.median(gaps[gaps > 0])) if (gaps > 0).any() else 1 / fps


def _cause(seconds: np.ndarray, starts: np.ndarray, period: float) -> str:
    rows, frames = len(seconds), len(starts)
    step = float(np.median(np.diff(seconds))) if rows > 1 else 0.0
    first, began = float(seconds[0]), float(starts[0])
    for factor, unit in ((1e3, "milliseconds"), (1e6, "microseconds"), (1e9, "nanoseconds")):
        if 0.5 < step / period / factor < 2:
            return f"timestamps in {unit}; they are seconds"
    if first > 1e8:
        return "timestamps of a wall clock instead of seconds since the episode's start"
    if first < -period / 2:
        return "timestamps begin before 0; they are seconds since the episode's start"
    if began - first > period / 2:
        return f"the video begins only at {began:.3f} s: it was probably trimmed without encoding it again"
    if first - began > 1.5 * period:
        return "timestamps run on from something before instead of beginning at 0 in each episode"
    if rows > frames:
        return f"the video has {frames} frames for {rows} rows"
    if rows > 1 and step > 0 and abs(step / period - 1) < 0.1:
        spread = np.diff(starts)
        if spread.max() > 1.5 * period:
            return "the video's frame rate varies, or frames were dropped"
        return f"the rows are stamped at {1 / step:.2f} per second, the video runs at {1 / period:.2f}"
    return "the clocks of table and video disagree"
