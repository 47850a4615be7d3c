"""Frames of any number of videos at random, without opening them: a few decoders serve all.

A video's index says where each packet lies in its file. For a frame, the packets from its key frame on are read from
there and given to a decoder, which may have been opened for another video of the same kind. Nothing else is read,
demuxed, decoded or converted. A video whose packets can't be read so keeps its container open, as one of a few.
"""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import BinaryIO

import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame

from trainer.data.lru_cache import LruCache
from trainer.data.video import FrameIndex, VideoDecoder, named, open_video, single_threaded, to_rgb
from trainer.errors import DatasetError

DECODERS = 8
"""At once: the frames of this many videos can be requested in turn, each from its last position."""
SHORT = 4
"""Frames between key frames that cost less than another decoder's place in the processor's cache."""
LEAVE_OUT = ("h264", "hevc")
"""Codecs whose decoder accepts for each packet whether it is needed: a B-frame on the way that no other refers to
does not. (dav1d takes it for the whole stream.)
"""
FILES = 256
"""Open at once. A process may often have 1,024, and has others."""


class Decoders:
    """Random access to the frames of any number of videos, for one thread."""

    def __init__(self) -> None:
        self._files: LruCache[Path, BinaryIO] = LruCache(FILES)
        self._decoders: LruCache[Path | str, _PacketDecoder] = LruCache(DECODERS)
        self._containers: LruCache[Path, VideoDecoder] = LruCache(DECODERS)

    def frame(self, path: Path, index: FrameIndex, position: int) -> np.ndarray:
        """Frame ``position`` of the video ``path`` with this index, as uint8 RGB ``[H, W, 3]``.

        Raises ``DatasetError`` when it can't be decoded.
        """
        return to_rgb(self.decoded(path, index, position))

    def decoded(self, path: Path, index: FrameIndex, position: int) -> VideoFrame:
        """The same frame as FFmpeg has it. Raises ``DatasetError`` when it can't be decoded."""
        if not index.in_file:
            return self._containers.get_or_open(path, lambda: VideoDecoder(path, index)).decoded(position)
        with named(path):
            file = self._files.get_or_open(path, lambda: path.open("rb", buffering=0))
            found = self._decoder(path, index).frame(file.fileno(), position)
        if found is None:
            raise DatasetError(f"{path}: frame {position} can't be decoded.", "Record or download the video again.")
        return found

    def _decoder(self, path: Path, index: FrameIndex) -> _PacketDecoder:
        """The one that was at this video last, else the one unused longest; where key frames are near, always one."""
        key = index.parameters if index.longest_group <= SHORT else path
        if key not in self._decoders and len(self._decoders) == DECODERS:
            oldest = next(iter(self._decoders))
            if self._decoders[oldest].index.parameters == index.parameters:
                self._decoders[key] = self._decoders.pop(oldest)
        decoder = self._decoders.get_or_open(key, lambda: _PacketDecoder(path, index))
        if decoder.index is not index:
            decoder.turn_to(index)
        return decoder


class _PacketDecoder:
    """A decoder that is given packets as they lie in a file."""

    def __init__(self, path: Path, index: FrameIndex) -> None:
        """For the video ``path``, and all with the same parameters."""
        self._container = open_video(path)
        self._codec = single_threaded(self._container).codec_context
        self.index = index
        self._next = 0
        """Number of the packet that comes next."""
        self._decoded: deque[VideoFrame] = deque()
        """In presentation order, and not requested yet."""
        self._last: int | None = None
        """The pts of the frame that was given last; None where it must begin at a key frame."""

    def turn_to(self, index: FrameIndex) -> None:
        """Decode another video from now on."""
        self.index = index
        self._last = None

    def frame(self, file: int, position: int) -> VideoFrame | None:
        """Frame ``position`` of the open ``file``; None when it does not come out."""
        index, target = self.index, int(self.index.pts[position])
        begin = index.packet_to_begin_at(target)
        if self._last is None or target < self._last or begin > self._next:
            self._begin(begin)
        found = self._advance(file, target)
        if found is None and begin:
            self._begin(0)  # a key frame that was none
            found = self._advance(file, target)
        self._last = None if found is None else target
        return found

    def _begin(self, number: int) -> None:
        self._codec.flush_buffers()
        self._decoded.clear()
        self._next = number

    def _advance(self, file: int, target: int) -> VideoFrame | None:
        packets = self.index.packets
        while True:
            while self._decoded:
                frame = self._decoded[0]
                if frame.pts == target:
                    return frame  # kept, as it may be requested again
                self._decoded.popleft()
            if self._next > len(packets):
                return None
            if self._next == len(packets):
                self._decoded += self._codec.decode(None)
            else:
                pts, dts, offset, size, _ = packets[self._next].item()
                packet = Packet(os.pread(file, size, offset))
                packet.pts, packet.dts, packet.time_base = pts, dts, self.index.time_base
                if self.index.codec in LEAVE_OUT:
                    self._codec.skip_frame = "NONREF" if pts < target else "DEFAULT"
                self._decoded += self._codec.decode(packet)
            self._next += 1

    def close(self) -> None:
        """Free it."""
        self._container.close()
