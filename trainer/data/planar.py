"""Frames kept as they are decoded, 8-bit 4:2:0: half of RGB's bytes, and the same RGB once they are converted."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.video.frame import VideoFrame

from trainer.data.clips import ClipIndex
from trainer.data.video import FrameIndex, to_rgb

FORMATS = ("yuv420p", "yuvj420p")
_FILE = "colours.json"


class Colours(NamedTuple):
    """What FFmpeg goes by when it converts planes to RGB, as its numbers."""

    range: int
    space: int

    @classmethod
    def of(cls, frame: VideoFrame) -> Colours:
        """Those of a decoded frame."""
        return cls(int(frame.color_range), int(frame.colorspace))

    @classmethod
    def read(cls, folder: Path) -> Colours | None:
        """Those of a cache entry; None where it holds RGB. Raises ``OSError`` and ``ValueError``."""
        file = folder / _FILE
        return cls(*json.loads(file.read_text())) if file.exists() else None

    def write(self, folder: Path) -> None:
        """Keep them beside the planes."""
        (folder / _FILE).write_text(json.dumps(self))

    @staticmethod
    def forget(folder: Path) -> None:
        """The frames are RGB after all."""
        (folder / _FILE).unlink(missing_ok=True)

    def rgb(self, planes: np.ndarray) -> np.ndarray:
        """Planes ``[H * 3 / 2, W]`` as uint8 RGB ``[H, W, 3]``: what ``to_rgb`` gives of the frame."""
        frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        frame.color_range, frame.colorspace = self
        return to_rgb(frame)


class NotPlanarError(Exception):
    """Frames that can't be kept as planes after all."""


def can_be_kept(index: FrameIndex | ClipIndex) -> bool:
    """Whether the frames of a video can probably be kept as planes."""
    whole = index.whole if isinstance(index, ClipIndex) else index
    return whole.pixels in FORMATS and whole.width % 2 == 0 and whole.height % 2 == 0


def as_planes(frames: Iterable[VideoFrame], folder: Path) -> Iterator[np.ndarray]:
    """The planes of ``frames``, uint8 ``[H * 3 / 2, W]`` each; how to convert them is written into ``folder``.

    Raises ``NotPlanarError`` where one is of another kind than the first, or that would not give its RGB again.
    """
    colours: Colours | None = None
    for frame in frames:
        if frame.format.name not in FORMATS or frame.width % 2 or frame.height % 2:
            raise NotPlanarError
        planes = frame.to_ndarray()
        if colours is None:
            colours = Colours.of(frame)
            if not np.array_equal(colours.rgb(planes), to_rgb(frame)):
                raise NotPlanarError
            colours.write(folder)
        elif colours != Colours.of(frame):
            raise NotPlanarError
        yield planes
