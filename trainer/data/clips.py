"""The frames of one episode in a video that holds many (LeRobot v3)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np

from trainer.data.alignment import SAME_RATE, period_of
from trainer.data.locations import Clip
from trainer.data.meta_files import AGAIN_V3
from trainer.data.video import FrameIndex, starts_of
from trainer.errors import DatasetError


@dataclass(frozen=True)
class ClipIndex:
    """The frames of a clip, as ``FrameIndex`` describes those of a video: the first is at 0 s."""

    whole: FrameIndex
    """That of the file."""
    first: int
    """Position of the clip's first frame in the file."""
    count: int

    @cached_property
    def pts(self) -> np.ndarray:
        """int64 ``[N]``, in ticks of the time base since the first frame."""
        pts = self.whole.pts[self.first : self.first + self.count]
        return pts - pts[0]

    @cached_property
    def starts(self) -> np.ndarray:
        """float64 ``[N]`` seconds at which each frame comes on screen."""
        return starts_of(self.pts, self.time_base)

    @property
    def time_base(self) -> Fraction:
        """Seconds of a tick."""
        return self.whole.time_base

    @property
    def width(self) -> int:
        """Pixels."""
        return self.whole.width

    @property
    def height(self) -> int:
        """Pixels."""
        return self.whole.height


def find_clip(whole: FrameIndex, clip: Clip) -> ClipIndex:
    """The frames of ``clip`` in the video that ``whole`` describes.

    There is a frame for each row, unless the camera is clearly faster or slower: then as many as the rows take in time.
    Raises ``DatasetError`` when the video hasn't got them.
    """
    per_row = rows_to_frames(whole, clip.fps)
    same = 1 / SAME_RATE < per_row < SAME_RATE
    count = clip.rows if same else round((clip.rows - 1) * per_row) + 1
    after = int(np.searchsorted(whole.starts, clip.start))
    near = [each for each in (after - 1, after) if 0 <= each < len(whole.pts)]
    first = min(near, key=lambda each: _off(whole, each, clip))
    if not _off(whole, first, clip) <= 0.5 / clip.fps or first + count > len(whole.pts):
        raise DatasetError(
            f"{clip.path}: no {count} frames from {clip.start:.3f} s on, where meta/episodes has episode "
            f"{clip.episode}; it has {len(whole.pts)} frames until {whole.starts[-1]:.3f} s.",
            AGAIN_V3,
        )
    return ClipIndex(whole, first, count)


def rows_to_frames(whole: FrameIndex, fps: float) -> float:
    """Frames of the video for each row of a table with ``fps`` rows a second."""
    return 1 / (fps * period_of(whole, fps))


def _off(whole: FrameIndex, frame: int, clip: Clip) -> float:
    """Seconds from the clip's start to the start of ``frame``."""
    return abs(float(whole.starts[frame]) - clip.start)
