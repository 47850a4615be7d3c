"""Stands for PyAV where it is missing: the GPU machine has no room for its wheel, and the drill decodes nothing.

A video is an array of frames, written and read back as it is. What the trainer asks of PyAV works on it, so that the
dataset, its checks, the frame cache and the evaluation are the real ones. Its folder is the last on the path of the
drill's processes: an installed PyAV comes before it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import IntEnum
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

__version__ = "frames"
library_versions: dict[str, tuple[int, ...]] = {}


class FFmpegError(OSError):
    """Never raised: numpy's own errors tell what is wrong with a file of frames."""


class PictureType(IntEnum):
    """Kinds of pictures; every frame here stands alone."""

    NONE = 0
    I = 1  # noqa: E741 - PyAV's name


class VideoFrame:
    """One frame, uint8 ``[H, W, 3]``, at ``pts`` in its stream's time base."""

    def __init__(self, array: np.ndarray, pts: int | None = None) -> None:
        self._array = array
        self.pts = pts
        self.rotation = 0

    @classmethod
    def from_ndarray(cls, array: np.ndarray, format: str) -> VideoFrame:  # noqa: A002 - PyAV's name
        """A frame of ``array`` itself; ``format`` is rgb24."""
        assert format == "rgb24"
        return cls(array)

    def reformat(self, format: str, threads: int) -> VideoFrame:  # noqa: A002, ARG002 - PyAV's names
        """The frame itself, which is rgb24."""
        assert format == "rgb24"
        return self

    def to_ndarray(self) -> np.ndarray:
        """The frame as it was written."""
        return self._array


class Packet(SimpleNamespace):
    """One frame in the file, not addressed by its place: it is read through the container."""

    pos = None


class VideoCodecContext(SimpleNamespace):
    """What a decoder is told before the first frame."""


class VideoStream(SimpleNamespace):
    """The one stream of a file."""

    def encode(self, frame: VideoFrame | None = None) -> list[VideoFrame]:
        """The frame itself, to be muxed."""
        return [] if frame is None else [frame]


class InputContainer:
    """A file of frames, open for reading."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as stored:
            self._frames, rate = stored["frames"], int(stored["rate"])
        count, height, width, _ = self._frames.shape
        stream = VideoStream(
            time_base=Fraction(1, rate),
            duration=count,
            frames=count,
            width=width,
            height=height,
            index_entries=[],
            codec_context=VideoCodecContext(
                codec=SimpleNamespace(canonical_name="frames"),
                name="frames",
                codec_tag="",
                pix_fmt="rgb24",
                profile=None,
                extradata=None,
                width=width,
                height=height,
                thread_count=0,
                bits_per_coded_sample=24,
                **dict.fromkeys(("color_range", "colorspace", "color_primaries", "color_trc"), 0),
            ),
        )
        self.streams = SimpleNamespace(video=[stream])
        self._next = 0

    def demux(self, _stream: VideoStream) -> Iterator[Packet]:
        """A packet for each frame."""
        for pts in range(len(self._frames)):
            yield Packet(pts=pts, dts=pts, size=self._frames[pts].nbytes, is_discard=False, is_keyframe=True)

    def decode(self, _stream: VideoStream | None = None, video: int = 0) -> Iterator[VideoFrame]:  # noqa: ARG002
        """The frames from where the file stands."""
        for pts in range(self._next, len(self._frames)):
            yield VideoFrame(self._frames[pts], pts)

    def seek(self, offset: int, *, backward: bool, stream: VideoStream) -> None:  # noqa: ARG002 - PyAV's names
        """Go on from frame ``offset``."""
        self._next = max(offset, 0)

    def close(self) -> None:
        """Nothing is held open."""

    def __enter__(self) -> InputContainer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class OutputContainer:
    """A file of frames, written when it is closed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._frames: list[np.ndarray] = []
        self._rate = 0

    def add_stream(self, _codec: str, rate: int, options: dict[str, str]) -> VideoStream:  # noqa: ARG002 - PyAV's name
        """The stream whose frames are muxed."""
        self._rate = rate
        return VideoStream(width=0, height=0, pix_fmt="", codec_context=SimpleNamespace(thread_count=0))

    def mux(self, frames: list[VideoFrame]) -> None:
        """Keep the frames."""
        self._frames += [frame.to_ndarray() for frame in frames]

    def __enter__(self) -> OutputContainer:
        return self

    def __exit__(self, *_: object) -> None:
        with self._path.open("wb") as file:
            np.savez(file, frames=np.stack(self._frames), rate=self._rate)


def open(file: Any, mode: str = "r", **_: Any) -> InputContainer | OutputContainer:  # noqa: A001 - PyAV's name
    """Open a file of frames. Raises ``FileNotFoundError``."""
    path = Path(str(file).removeprefix("file:"))
    return OutputContainer(path) if mode == "w" else InputContainer(path)


for _name in ("container", "packet", "video", "video.codeccontext", "video.frame", "video.stream"):
    sys.modules[f"{__name__}.{_name}"] = sys.modules[__name__]
