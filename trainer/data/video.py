"""Decodes videos with PyAV: which frames there are, which one is on screen at a time, and any of them at random.

Times are compared in float32, the precision LeRobot stores timestamps in. Almost half of the float32 timestamps of a
30 fps recording lie just below the exact k/30, so that an exact comparison would give frame k-1; in float32 they are
equal and give frame k. Timestamps that mean another frame differ by far more than float32's rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from trainer.data.dataset_meta import is_lfs_pointer
from trainer.errors import DatasetError

DECODER = "-".join(["pyav", av.__version__, *(".".join(map(str, v)) for _, v in sorted(av.library_versions.items()))])
"""Version of everything that decides a decoded pixel."""


@dataclass(frozen=True)
class FrameIndex:
    """The frames of a video in presentation order, from its packets, without decoding."""

    pts: np.ndarray
    """int64 ``[N]``, ascending, in the stream's time base."""
    starts: np.ndarray
    """float64 ``[N]`` seconds at which each frame comes on screen."""
    keyframes: list[tuple[int, int]]
    """(pts, dts) of the frames decoding can start at, ascending."""

    def at(self, timestamps: np.ndarray | float) -> np.ndarray:
        """Positions of the frames on screen at ``timestamps`` (seconds, ``[T]``): see ``frames_at``."""
        return frames_at(self.starts, timestamps)

    def keyframe(self, pts: int) -> tuple[int, int]:
        """The last key frame not after ``pts``; the first, when all are after it."""
        return next((key for key in reversed(self.keyframes) if key[0] <= pts), self.keyframes[0])


def frames_at(starts: np.ndarray, timestamps: np.ndarray | float) -> np.ndarray:
    """Positions in ``starts`` (seconds, ascending) of what is on screen at ``timestamps``: the last frame that has
    started, else the first.
    """
    times = np.asarray(timestamps, dtype=np.float32)
    started = np.searchsorted(starts.astype(np.float32, copy=False), times, side="right")
    return np.maximum(started - 1, 0)


def index_frames(path: Path) -> FrameIndex:
    """List the frames of ``path``. Raises ``DatasetError`` when it is not a readable video with timestamps."""
    with open_video(path) as container, named(path):
        stream = container.streams.video[0]
        # The muxer's edit list may hide frames; the decoder drops their packets, marked to be discarded.
        packets = [packet for packet in container.demux(stream) if packet.size and not packet.is_discard]
        time_base = float(stream.time_base or 0)
    if not packets or any(packet.pts is None for packet in packets):
        raise DatasetError(
            f"{path}: no frames with timestamps.",
            "Re-encode it, for example with `ffmpeg -i in.mp4 -c:v libx264 out.mp4`.",
        )
    pts = np.array(sorted(packet.pts for packet in packets if packet.pts is not None), dtype=np.int64)
    keys = sorted((packet.pts or 0, packet.dts or 0) for packet in packets if packet.is_keyframe)
    gaps = np.diff(pts)
    # A time base too coarse for the frame rate (1/1000 s at 30 fps) rounds each frame by up to half a tick.
    rounding = 0.5 if len(gaps) and gaps.max() - gaps.min() == 1 else 0.0
    return FrameIndex(pts, (pts - rounding) * time_base, keys or [(int(pts[0]), int(pts[0]))])


def decode_video(path: Path) -> Iterator[tuple[int, np.ndarray]]:
    """Every frame of ``path`` in presentation order: its pts and uint8 RGB ``[H, W, 3]``. Raises ``DatasetError``."""
    with open_video(path) as container, named(path):
        for frame in container.decode(_single_threaded(container)):
            yield _pts(frame), to_rgb(frame)


def to_rgb(frame: VideoFrame) -> np.ndarray:
    """The frame as uint8 RGB ``[H, W, 3]``, converted as upstream's torchvision_av backend does."""
    return frame.to_ndarray(format="rgb24")


class VideoDecoder:
    """Random access to the frames of one open video. Going forward within a group of pictures decodes on."""

    def __init__(self, path: Path, index: FrameIndex | None = None) -> None:
        """``index`` is that of ``path``, where it is known already."""
        self.path = path
        self.index = index or index_frames(path)
        self._container = open_video(path)
        self._stream = _single_threaded(self._container)
        self._frames: Iterator[VideoFrame] = iter(())
        self._current: VideoFrame | None = None

    def frame(self, position: int) -> np.ndarray:
        """Frame ``position`` as uint8 RGB ``[H, W, 3]``. Raises ``DatasetError`` when it can't be decoded."""
        target = int(self.index.pts[position])
        with named(self.path):
            at = self._current.pts if self._current is not None else None
            key, key_dts = self.index.keyframe(target)
            if at is None or target < at or key > at:
                self._seek(key_dts)
            found = self._advance(target)
            if found is None:
                # Containers whose seek table is off land after the target: decode from the start instead.
                self._seek(self.index.keyframes[0][1])
                found = self._advance(target)
        if found is None:
            raise DatasetError(
                f"{self.path}: frame {position} can't be decoded.", "Record or download the video again."
            )
        return to_rgb(found)

    def _seek(self, dts: int) -> None:
        self._container.seek(dts, backward=True, stream=self._stream)
        self._frames = self._container.decode(self._stream)
        self._current = None

    def _advance(self, target: int) -> VideoFrame | None:
        while self._current is None or _pts(self._current) < target:
            following = next(self._frames, None)
            if following is None:
                self._current = None
                return None
            self._current = following
        return self._current if _pts(self._current) == target else None

    def close(self) -> None:
        """Close the file."""
        self._container.close()


def open_video(path: Path) -> InputContainer:
    """Open ``path`` for reading; it has at least one video stream. Raises ``DatasetError``."""
    try:
        container = av.open(path, "r")
    except FileNotFoundError:
        raise DatasetError(f"{path}: missing.", "Download the dataset again, or remove the episode.") from None
    except (av.FFmpegError, OSError) as error:
        if path.is_file() and is_lfs_pointer(path):
            raise DatasetError(f"{path}: a git-lfs pointer, not the video.", "Run `git lfs pull`.") from error
        raise _unreadable(path, error) from error
    if not container.streams.video:
        container.close()
        raise DatasetError(f"{path}: no video stream.", "Record or download the video again.")
    return container


class named:  # noqa: N801 - reads as a statement
    """Turns FFmpeg's errors, which don't name the file, into ``DatasetError``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (av.FFmpegError, OSError)):
            raise _unreadable(self._path, error) from error


def _unreadable(path: Path, error: BaseException) -> DatasetError:
    return DatasetError(f"{path}: not a readable video ({error}).", "It may be cut off: record or download it again.")


def _single_threaded(container: InputContainer) -> VideoStream:
    """The video stream, decoding on one thread: the data loader's workers are the parallelism."""
    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1
    return stream


def _pts(frame: VideoFrame) -> int:
    if frame.pts is None:
        raise DatasetError("A frame has no timestamp.", "Re-encode the video.")
    return frame.pts
