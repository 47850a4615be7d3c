"""Frames by video and timestamp, each video decoded once into a bounded cache on disk.

An entry is a folder with ``frames.npy`` (uint8 ``[N, H, W, 3]``, memory-mapped by all data loading processes) and
``starts.npy`` (seconds). It is named by the hash of the video's bytes and the decoder's version, so that a video that
was recorded again or an upgraded decoder never gives stale frames, and copies of a dataset share entries. Videos
beyond the bound are decoded when they are needed.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trainer.data.video import DECODER, FrameIndex, VideoDecoder, decode_video, frames_at, index_frames
from trainer.disk import locked
from trainer.errors import DatasetError

log = logging.getLogger(__name__)

OPEN_DECODERS = 8
OPEN_ENTRIES = 2048
DISK_RESERVE = 2 * 1024**3
"""Bytes the cache leaves free on its disk, beside what the checkpoints on it will need: they need it more."""


class Entry(NamedTuple):
    """A cached video."""

    frames: np.ndarray
    starts: np.ndarray
    """float32, the precision times are compared in."""


class FrameStore:
    """Gives the frame on screen at a time, from the cache or from the video.

    One store serves a dataset in all processes: it may be forked or pickled into data loading workers, and any number
    of processes and runs may share ``cache_dir``. Without ``cache_dir`` every frame is decoded when it is needed.
    """

    def __init__(self, cache_dir: Path | None = None, max_bytes: int | None = None, spare_bytes: int = 0) -> None:
        self.cache_dir = cache_dir
        self.max_bytes = max_bytes
        """Bound of the whole cache folder; without one, what the disk has free, less a reserve."""
        self.spare_bytes = spare_bytes
        """What others will need of the disk; entries give way to it."""
        self._keys: dict[Path, str] = {}
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        self._entries: OrderedDict[Path, Entry] = OrderedDict()
        self._decoders: OrderedDict[Path, VideoDecoder] = OrderedDict()
        # Small, and making one reads the whole file: kept when the decoder is closed.
        self._indices: dict[Path, FrameIndex] = {}

    def __getstate__(self) -> dict[str, Any]:
        kept = ("cache_dir", "max_bytes", "spare_bytes", "_keys")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def plan(self, videos: Sequence[tuple[Path, int]]) -> int:
        """Choose which ``videos`` (path, decoded bytes) are cached: as many as fit, in order. Returns how many.

        Decided once, in the process that makes the dataset, so that workers never compete for the space. Entries of
        other datasets make room, the longest unused first, and where the disk is too full those of this one as well.
        """
        if self.cache_dir is None:
            return 0
        self.cache_dir.mkdir(parents=True, exist_ok=True)
        stored = {entry.name: _size(entry) for entry in _entries(self.cache_dir)}
        free = shutil.disk_usage(self.cache_dir).free
        budget = max(sum(stored.values()) + free - DISK_RESERVE - self.spare_bytes, 0)
        if self.max_bytes is not None:
            budget = min(budget, self.max_bytes)
        chosen, total = [], 0
        for path, size in videos:
            if total + size > budget:
                break
            chosen.append(path)
            total += size
        with ThreadPoolExecutor(max_workers=4) as pool:
            self._keys = dict(zip(chosen, pool.map(cache_key, chosen), strict=True))
        self._evict({name: size for name, size in stored.items() if name not in self._keys.values()}, budget - total)
        if len(chosen) < len(videos):
            log.warning(
                "%d of %d videos fit the frame cache %s (%.1f GB); the others are decoded for every sample.",
                *(len(chosen), len(videos), self.cache_dir, budget / 1e9),
            )
        return len(chosen)

    def _evict(self, others: dict[str, int], room: int) -> None:
        assert self.cache_dir is not None  # noqa: S101 - narrows the type
        used = sum(others.values())
        for entry in sorted((self.cache_dir / name for name in others), key=_last_use):
            if used <= room:
                return
            used -= others[entry.name]
            # Renamed first: another process finds the entry whole or not at all, and then builds it again.
            gone = entry.with_name(f"{entry.name}.evicted-{os.getpid()}")
            try:
                entry.rename(gone)
            except OSError:
                continue
            shutil.rmtree(gone, ignore_errors=True)

    def prepare(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Decode all planned videos now, ``progress(done, of)`` after each; else each is decoded at first use."""
        planned = list(self._keys)  # one that can't be written leaves self._keys meanwhile
        with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, 8)) as pool:
            try:
                for done, _ in enumerate(pool.map(self._build_or_warn, planned), start=1):
                    if progress:
                        progress(done, len(planned))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)  # a signal shall not wait for all the other videos
                raise

    def missing(self) -> int:
        """How many of the planned videos are not in the cache yet."""
        return sum(not self._folder(path).is_dir() for path in self._keys)

    def frames(self, path: Path, timestamps: np.ndarray) -> np.ndarray:
        """Frames of ``path`` on screen at ``timestamps`` (seconds, ``[T]``): uint8 RGB ``[T, H, W, 3]``.

        Raises ``DatasetError`` when the video can't be decoded.
        """
        return np.stack([self.frame(path, timestamp) for timestamp in timestamps])

    def frame(self, path: Path, timestamp: float) -> np.ndarray:
        """The frame of ``path`` on screen at ``timestamp``, uint8 RGB ``[H, W, 3]``. One of the cache is not copied:
        it is read-only, and read from the disk when it is used.

        Raises ``DatasetError`` when the video can't be decoded.
        """
        if self._process != os.getpid():
            self._reset()  # a forked worker must not share file positions with its parent
        entry = self._entry(path)
        if entry is not None:
            return entry.frames[frames_at(entry.starts, timestamp)]
        decoder = self._decoder(path)
        return decoder.frame(int(decoder.index.at(timestamp)))

    def _entry(self, path: Path) -> Entry | None:
        if path in self._entries:
            self._entries.move_to_end(path)
            return self._entries[path]
        if path not in self._keys or not self._build_or_warn(path):
            return None
        try:
            entry = _load(self._folder(path))
        except (OSError, ValueError):
            return None  # evicted this moment by another run
        self._entries[path] = entry
        if len(self._entries) > OPEN_ENTRIES:
            self._entries.popitem(last=False)
        return entry

    def _folder(self, path: Path) -> Path:
        assert self.cache_dir is not None  # noqa: S101 - narrows the type
        return self.cache_dir / self._keys[path]

    def _build_or_warn(self, path: Path) -> bool:
        try:
            build_entry(self._folder(path), path)
        except OSError as error:
            reason = "the disk is full" if error.errno == errno.ENOSPC else str(error)
            log.warning("Can't cache the frames of %s (%s); they are decoded for every sample instead.", path, reason)
            del self._keys[path]
            return False
        return True

    def _decoder(self, path: Path) -> VideoDecoder:
        if path in self._decoders:
            self._decoders.move_to_end(path)
            return self._decoders[path]
        self._decoders[path] = VideoDecoder(path, self._indices.get(path))
        self._indices[path] = self._decoders[path].index
        if len(self._decoders) > OPEN_DECODERS:
            self._decoders.popitem(last=False)[1].close()
        return self._decoders[path]


def cache_key(path: Path) -> str:
    """Name of the cache entry of a video: changes with its bytes and with the decoder. Raises ``DatasetError``."""
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256")
    except FileNotFoundError:
        raise DatasetError(f"{path}: missing.", "Download the dataset again, or remove the episode.") from None
    digest.update(DECODER.encode())
    return digest.hexdigest()[:40]


def build_entry(folder: Path, path: Path) -> None:
    """Decode ``path`` into the cache entry ``folder``, unless it is there. Safe against concurrent builders.

    The entry is built beside ``folder`` under a lock, which the kernel drops when its holder dies, and appears whole
    by a rename. Raises ``DatasetError`` when the video can't be decoded, ``OSError`` when it can't be written.
    """
    if folder.is_dir():
        os.utime(folder)
        return
    with locked(folder.with_suffix(".lock")):
        if folder.is_dir():
            return
        temporary = folder.with_suffix(".building")
        shutil.rmtree(temporary, ignore_errors=True)  # a builder that was killed
        temporary.mkdir()
        try:
            _decode_into(temporary, path)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _decode_into(folder: Path, path: Path) -> None:
    index = index_frames(path)
    decoded = 0
    # Written as a stream, not through a memory map, where a full disk kills the process instead of raising.
    with (folder / "frames.npy").open("wb") as file:
        for pts, frame in decode_video(path):
            if decoded == 0:
                shape = (len(index.pts), *frame.shape)
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
            if decoded >= len(index.pts) or pts != index.pts[decoded]:
                break
            file.write(frame.data)
            decoded += 1
        # Else a power cut after the rename could leave an entry that looks whole and holds zeros.
        file.flush()
        os.fsync(file.fileno())
    if decoded != len(index.pts):
        raise DatasetError(
            f"{path}: frame {decoded} of {len(index.pts)} can't be decoded.", "Record or download the video again."
        )
    np.save(folder / "starts.npy", index.starts)


def _load(folder: Path) -> Entry:
    # As plain arrays: slicing a np.memmap takes several times as long.
    frames = np.load(folder / "frames.npy", mmap_mode="r").view(np.ndarray)
    return Entry(frames, np.load(folder / "starts.npy").astype(np.float32))


def _entries(cache_dir: Path) -> list[Path]:
    return [entry for entry in cache_dir.iterdir() if entry.is_dir() and not entry.suffix]


def _size(entry: Path) -> int:
    try:
        return (entry / "frames.npy").stat().st_size
    except OSError:
        return 0


def _last_use(entry: Path) -> float:
    try:
        return entry.stat().st_mtime
    except OSError:
        return 0.0
