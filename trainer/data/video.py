"""Decodes videos with PyAV: which frames there are, which one is on screen at a time, and any of them at random.

Times are compared in float32, the precision LeRobot stores timestamps in. Almost half of the float32 timestamps of a
30 fps recording lie just below the exact k/30, so that an exact comparison would give frame k-1; in float32 they are
equal and give frame k. Timestamps that mean another frame differ by far more than float32's rounding.
"""

from __future__ import annotations

import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from trainer.data.meta_files import is_lfs_pointer
from trainer.data.paths import require_file
from trainer.errors import DatasetError

DECODER = "-".join(["pyav", av.__version__, *(".".join(map(str, v)) for _, v in sorted(av.library_versions.items()))])
"""Version of everything that decides a decoded pixel."""

AGAIN = "It may be cut off: record or download it again."
LARGEST = 16 << 30
"""Bytes of a video."""
MAX_FRAMES = 1_000_000
_LIMITS = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi",
    "protocol_whitelist": "file",
    "max_pixels": str(8192 * 8192),
}
"""A video is one file, of a container that robots record, with frames no larger than any camera's."""


PACKET = np.dtype([("pts", "<i8"), ("dts", "<i8"), ("offset", "<i8"), ("size", "<i4"), ("flags", "<i4")])
_WITHOUT_A_PAST = ("av1", "vp8", "vp9", "mjpeg")
"""Codecs whose key frames say all that is needed to decode from there on."""
_SETS_APART = ("avc1", "hvc1")
"""Tracks of an mp4 whose parameter sets are outside the packets."""
KEY, HIDDEN = 1, 2
"""Flags of a packet: decoding can start at it; its frame is not shown."""


@dataclass(frozen=True)
class FrameIndex:
    """What is in a video, from its packets, without decoding one. Small enough to keep for every video of a dataset."""

    packets: np.ndarray
    """``PACKET`` ``[P]`` in decoding order. ``offset`` is where the packet's bytes lie in the file, as they are given
    to the decoder; -1 where they don't."""
    time_base: Fraction
    """Seconds of a tick of ``pts`` and ``dts``."""
    width: int
    height: int
    codec: str
    """FFmpeg's name, such as ``av1``."""
    pixels: str
    """FFmpeg's name of how they are stored, such as ``yuv420p``; empty where the container doesn't say."""
    parameters: str
    """Equal for videos that one decoder can decode: a hash of all that it gets before the first packet."""

    @cached_property
    def pts(self) -> np.ndarray:
        """int64 ``[N]``: the frames that are shown, ascending, in ticks of the time base."""
        return np.sort(self.packets["pts"][(self.packets["flags"] & HIDDEN) == 0])

    @cached_property
    def starts(self) -> np.ndarray:
        """float64 ``[N]`` seconds at which each frame comes on screen."""
        return starts_of(self.pts, self.time_base)

    @cached_property
    def keyframes(self) -> list[tuple[int, int]]:
        """(pts, dts) of the frames decoding can start at, ascending."""
        keys = self.packets[(self.packets["flags"] & (KEY | HIDDEN)) == KEY]
        return sorted(zip(keys["pts"].tolist(), keys["dts"].tolist(), strict=True)) or [(int(self.pts[0]),) * 2]

    def at(self, timestamps: np.ndarray | float) -> np.ndarray:
        """Positions of the frames on screen at ``timestamps`` (seconds, ``[T]``): see ``frames_at``."""
        return frames_at(self.starts, timestamps)

    @cached_property
    def in_file(self) -> bool:
        """Whether every packet's bytes lie in the file as the decoder takes them."""
        return bool((self.packets["offset"] >= 0).all())

    @cached_property
    def longest_group(self) -> int:
        """The most packets from a key frame to the next."""
        keys = np.flatnonzero(self.packets["flags"] & KEY)
        return int(np.diff(keys, prepend=0, append=len(self.packets)).max())

    @cached_property
    def _begins(self) -> tuple[np.ndarray, np.ndarray]:
        """Pts and number of each packet decoding can start at, by pts."""
        numbers = np.flatnonzero(self.packets["flags"] & KEY)
        numbers = numbers[np.argsort(self.packets["pts"][numbers], kind="stable")]
        return self.packets["pts"][numbers], numbers

    def packet_to_begin_at(self, pts: int) -> int:
        """Number of the packet from which on the frame ``pts`` can be decoded: the last key frame not after it."""
        starts, numbers = self._begins
        before = np.searchsorted(starts, pts, side="right")
        return int(numbers[before - 1]) if before else 0

    def keyframe(self, pts: int) -> tuple[int, int]:
        """The last key frame not after ``pts``; the first, when all are after it."""
        return self.keyframes[max(bisect_right(self.keyframes, pts, key=lambda key: key[0]) - 1, 0)]

    def to_bytes(self) -> bytes:
        """For ``from_bytes``: a line of JSON, then the packets."""
        about = [str(self.time_base), self.width, self.height, self.codec, self.pixels, self.parameters]
        return json.dumps(about).encode() + b"\n" + self.packets.tobytes()

    @classmethod
    def from_bytes(cls, content: bytes) -> FrameIndex:
        """What ``to_bytes`` gave. Raises ``ValueError`` for anything else."""
        head, _, packets = content.partition(b"\n")
        time_base, *about = json.loads(head)
        return cls(np.frombuffer(packets, PACKET), Fraction(time_base), *about)


def starts_of(pts: np.ndarray, time_base: Fraction) -> np.ndarray:
    """float64 ``[N]`` seconds at which frames with these ``pts`` come on screen."""
    gaps = np.diff(pts)
    # A time base too coarse for the frame rate (1/1000 s at 30 fps) rounds each frame by up to half a tick.
    rounding = 0.5 if len(gaps) and gaps.max() - gaps.min() == 1 else 0.0
    return (pts - rounding) * float(time_base)


def frames_at(starts: np.ndarray, timestamps: np.ndarray | float) -> np.ndarray:
    """Positions in ``starts`` (seconds, ascending) of what is on screen at ``timestamps``: the last frame that has
    started, else the first.
    """
    times = np.asarray(timestamps, dtype=np.float32)
    started = np.searchsorted(starts.astype(np.float32, copy=False), times, side="right")
    return np.maximum(started - 1, 0)


def index_frames(path: Path) -> FrameIndex:
    """Read the packets of ``path``. Raises ``DatasetError`` when it is not a whole, readable video with timestamps."""
    with open_video(path) as container, named(path), path.open("rb", buffering=0) as file:
        stream, size = container.streams.video[0], path.stat().st_size
        announced = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
        if announced > size:
            raise DatasetError(f"{path}: cut off, {size} of at least {announced} bytes.", AGAIN)
        rows, left = [], size
        for packet in container.demux(stream):
            if not packet.size:
                continue
            if packet.pts is None:
                rows = []
                break
            left -= packet.size
            if left < 0 or len(rows) == MAX_FRAMES:
                what = "more bytes than the file" if left < 0 else f"more than {MAX_FRAMES:,}"
                raise DatasetError(f"{path}: its frames are {what}.", AGAIN)
            flags = KEY * packet.is_keyframe | HIDDEN * packet.is_discard
            dts = packet.pts if packet.dts is None else packet.dts
            rows.append((packet.pts, dts, _offset(file.fileno(), packet), packet.size, flags))
        packets = np.array(rows, PACKET)
        if not len(packets) or (packets["flags"] & HIDDEN).all():
            raise DatasetError(
                f"{path}: no frames with timestamps.",
                "Re-encode it, for example with `ffmpeg -i in.mp4 -c:v libx264 out.mp4`.",
            )
        codec = stream.codec_context
        return FrameIndex(
            packets=packets,
            time_base=stream.time_base or Fraction(1),
            width=codec.width,
            height=codec.height,
            codec=codec.codec.canonical_name,
            pixels=codec.pix_fmt or "",
            parameters=_parameters(codec, packets),
        )


def _offset(file: int, packet: Packet) -> int:
    """Where the packet's bytes are in ``file``, after at most a short header of the container's; -1 if nowhere there.

    A packet with side data means more than its bytes.
    """
    if packet.pos is None or packet.pos < 0 or packet.has_sidedata("new_extradata") or packet.has_sidedata("palette"):
        return -1
    found = os.pread(file, packet.size + 32, packet.pos).find(packet)
    return -1 if found < 0 else packet.pos + found


def _parameters(codec: VideoCodecContext, packets: np.ndarray) -> str:
    about = (codec.name, codec.codec_tag, codec.width, codec.height, codec.pix_fmt, codec.profile, codec.extradata)
    colours = (codec.color_range, codec.colorspace, codec.color_primaries, codec.color_trc)
    reported = repr((*about, *map(int, colours), codec.bits_per_coded_sample))
    if codec.codec.canonical_name not in _WITHOUT_A_PAST and codec.codec_tag not in _SETS_APART:
        # Parameter sets among its packets would stay with the decoder when it turns to another video.
        reported += packets.tobytes().hex()
    return hashlib.sha256(reported.encode()).hexdigest()[:16]


def decode_video(path: Path) -> Iterator[tuple[int, np.ndarray]]:
    """Every frame of ``path`` in presentation order: its pts and uint8 RGB ``[H, W, 3]``. Raises ``DatasetError``."""
    for pts, frame in decoded(path):
        yield pts, to_rgb(frame)


def decoded(path: Path) -> Iterator[tuple[int, VideoFrame]]:
    """Every frame of ``path`` in presentation order, with its pts, as FFmpeg has it. Raises ``DatasetError``."""
    with open_video(path) as container, named(path):
        for frame in container.decode(single_threaded(container)):
            yield _pts(frame), frame


def to_rgb(frame: VideoFrame) -> np.ndarray:
    """The frame as uint8 RGB ``[H, W, 3]``, converted as upstream's torchvision_av backend does."""
    # FFmpeg starts a thread for each processor otherwise, for each frame: that takes longer than the conversion.
    return frame.reformat(format="rgb24", threads=1).to_ndarray()


class VideoDecoder:
    """Random access to the frames of one open video. Going forward within a group of pictures decodes on."""

    def __init__(self, path: Path, index: FrameIndex | None = None) -> None:
        """``index`` is that of ``path``, where it is known already."""
        self.path = path
        self.index = index or index_frames(path)
        self._container = open_video(path)
        self._stream = single_threaded(self._container)
        self._frames: Iterator[VideoFrame] = iter(())
        self._current: VideoFrame | None = None

    def frame(self, position: int) -> np.ndarray:
        """Frame ``position`` as uint8 RGB ``[H, W, 3]``. Raises ``DatasetError`` when it can't be decoded."""
        return to_rgb(self.decoded(position))

    def decoded(self, position: int) -> VideoFrame:
        """Frame ``position`` as FFmpeg has it. Raises ``DatasetError`` when it can't be decoded."""
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
        return found

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
    """Open ``path`` for reading; it has at least one video stream. Raises ``DatasetError``.

    Nothing but the file itself is read: playlists and other lists of files are no video, and a name is never taken for
    an address.
    """
    try:
        require_file(path)
        if (size := path.stat().st_size) > LARGEST:
            raise DatasetError(f"{path}: {size:,} bytes; at most {LARGEST >> 30} GiB can be meant.", AGAIN)
        # Titles and the like may be in any encoding; nothing reads them.
        container = av.open(f"file:{path}", "r", options=_LIMITS, metadata_errors="replace")
    except FileNotFoundError:
        raise DatasetError(f"{path}: missing.", "Download the dataset again, or remove the episode.") from None
    except (av.FFmpegError, OSError) as error:
        if path.is_file() and is_lfs_pointer(path):
            raise DatasetError(f"{path}: a git-lfs pointer, not the video.", "Run `git lfs pull`.") from error
        raise _unreadable(path, error) from error
    streams = container.streams.video
    if not streams or streams[0].codec_context is None:
        container.close()
        what = "no video stream" if not streams else "a codec that FFmpeg does not know"
        raise DatasetError(f"{path}: {what}.", "Record or download the video again.")
    streams[0].codec_context.options = {"max_pixels": _LIMITS["max_pixels"]}
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
    return DatasetError(f"{path}: not a readable video ({error}).", AGAIN)


def single_threaded(container: InputContainer) -> VideoStream:
    """The video stream, decoding on one thread: the data loader's workers are the parallelism."""
    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1
    return stream


def _pts(frame: VideoFrame) -> int:
    if frame.pts is None:
        raise DatasetError("A frame has no timestamp.", "Re-encode the video.")
    return frame.pts
