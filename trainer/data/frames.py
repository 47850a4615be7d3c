"""Frames of videos by their number, each video decoded once into a bounded cache on disk.

An entry is a folder with ``frames.npy`` (uint8 ``[N, H, W, 3]``, memory-mapped by all data loading processes). It is
named by the hash of the video's bytes and the decoder's version, so that a video that was recorded again or an upgraded
decoder never gives stale frames, and copies of a dataset share entries. Videos beyond the bound are decoded when they
are needed. Images in a table are kept like a video.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trainer.data.clips import ClipIndex
from trainer.data.decoders import Decoders
from trainer.data.frame_indices import FrameIndices
from trainer.data.image_columns import ImageColumn, ImageGroups, ImageReader
from trainer.data.memory import Memory
from trainer.data.places import Clip, Video, file_of
from trainer.data.recent import Recent
from trainer.data.video import DECODER, FrameIndex, decode_video, index_frames
from trainer.disk import locked
from trainer.errors import DatasetError

log = logging.getLogger(__name__)

OPEN_TABLES = 8
OPEN_ENTRIES = 2048
DISK_RESERVE = 2 * 1024**3
"""Bytes the cache leaves free on its disk, beside what the checkpoints on it will need: they need it more."""


Source = Video | ImageColumn
"""Where frames come from: a video, or the images in a table."""


class Opened(NamedTuple):
    """What is known or open of a source already."""

    index: FrameIndex | ClipIndex | None = None
    """Of a video. A clip needs it."""
    groups: ImageGroups | None = None
    """Images of the table."""


class FrameStore:
    """Gives frames by their number, from the cache or from the video. ``alignment`` says which one a row means.

    One store serves a dataset in all processes: it may be forked or pickled into data loading workers, and any number
    of processes and runs may share ``cache_dir``. Without ``cache_dir`` every frame is decoded when it is needed.
    ``memory`` knows the videos that were looked at before.
    """

    def __init__(
        self,
        cache_dir: Path | None = None,
        max_bytes: int | None = None,
        spare_bytes: int = 0,
        memory: Memory | None = None,
    ) -> None:
        self.cache_dir = cache_dir
        self.max_bytes = max_bytes
        """Bound of the whole cache folder; without one, what the disk has free, less a reserve."""
        self.spare_bytes = spare_bytes
        """What others will need of the disk; entries give way to it."""
        self._memory = memory
        self._keys: dict[Source, str] = {}
        # Small, and making one reads the whole file: kept when the decoder is closed, and given to workers.
        self._indices = FrameIndices(memory)
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        self._entries: OrderedDict[Source, np.ndarray] = OrderedDict()
        self._decoders = Decoders()
        self._tables: Recent[ImageColumn, ImageReader] = Recent(OPEN_TABLES)
        self._groups = ImageGroups()

    def __getstate__(self) -> dict[str, Any]:
        kept = ("cache_dir", "max_bytes", "spare_bytes", "_keys", "_indices")
        return {name: self.__dict__[name] for name in kept} | {"_memory": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def index(self, video: Video) -> FrameIndex | ClipIndex:
        """The frames of a video, without decoding one. Raises ``DatasetError`` when it is no readable video."""
        return self._indices.of(video)

    def plan(self, videos: Sequence[tuple[Source, int]]) -> int:
        """Choose which ``videos`` (source, decoded bytes) are cached: as many as fit, in order. Returns how many.

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
        for source, size in videos:
            if total + size > budget:
                break
            chosen.append(source)
            total += size
        with ThreadPoolExecutor(max_workers=4) as pool:
            keys = pool.map(self._key, chosen)
            self._keys = dict(zip(chosen, keys, strict=True))
        self._evict({name: size for name, size in stored.items() if name not in self._keys.values()}, budget - total)
        if len(chosen) < len(videos):
            log.warning(
                "%d of %d videos fit the frame cache %s (%.1f GB); the others are decoded for every sample.",
                *(len(chosen), len(videos), self.cache_dir, budget / 1e9),
            )
        return len(chosen)

    def _key(self, source: Source) -> str:
        index = self._indices.of(source) if isinstance(source, Clip) else None
        return cache_key(source, self._memory, index)

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
        """Decode all planned videos now, ``progress(done, of)`` after each; else each is decoded at first use.

        Their indices are dropped then.
        """
        planned = list(self._keys)  # one that can't be written leaves self._keys meanwhile
        with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, 8)) as pool:
            try:
                for done, _ in enumerate(pool.map(self._build_or_warn, planned), start=1):
                    if progress:
                        progress(done, len(planned))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)  # a signal shall not wait for all the other videos
                raise
        self._indices.forget({source for source in self._keys if not isinstance(source, ImageColumn)})

    def missing(self) -> int:
        """How many of the planned videos are not in the cache yet."""
        return sum(not self._folder(source).is_dir() for source in self._keys)

    def frames(self, source: Source, positions: np.ndarray) -> np.ndarray:
        """Frames ``positions`` ``[T]`` of ``source``: uint8 RGB ``[T, H, W, 3]``.

        Raises ``DatasetError`` when the video can't be decoded.
        """
        return np.stack([self.frame(source, int(position)) for position in positions])

    def frame(self, source: Source, position: int) -> np.ndarray:
        """Frame ``position`` of ``source``, uint8 RGB ``[H, W, 3]``. One of the cache is not copied: it is read-only,
        and read from the disk when it is used.

        Raises ``DatasetError`` when the video can't be decoded.
        """
        if self._process != os.getpid():
            self._reset()  # a forked worker must not share file positions with its parent
            self._memory = None
            self._indices.enter_process()
        entry = self._entry(source)
        if entry is not None:
            return entry[position]
        if isinstance(source, ImageColumn):
            return self._tables.get_or_open(source, lambda: ImageReader(source, self._groups)).frame(position)
        return frame_of(self._decoders, source, self.index(source), position)

    def _entry(self, source: Source) -> np.ndarray | None:
        if source in self._entries:
            self._entries.move_to_end(source)
            return self._entries[source]
        if source not in self._keys or not self._build_or_warn(source):
            return None
        try:
            # As a plain array: slicing a np.memmap takes several times as long.
            entry = np.load(self._folder(source) / "frames.npy", mmap_mode="r").view(np.ndarray)
        except (OSError, ValueError):
            return None  # evicted this moment by another run
        self._entries[source] = entry
        if len(self._entries) > OPEN_ENTRIES:
            self._entries.popitem(last=False)
        return entry

    def _folder(self, source: Source) -> Path:
        assert self.cache_dir is not None  # noqa: S101 - narrows the type
        return self.cache_dir / self._keys[source]

    def _build_or_warn(self, source: Source) -> bool:
        try:
            folder = self._folder(source)
            if folder.is_dir():
                os.utime(folder)
            else:
                index = None if isinstance(source, ImageColumn) else self.index(source)
                build_entry(folder, source, Opened(index, self._groups))
        except OSError as error:
            reason = "the disk is full" if error.errno == errno.ENOSPC else str(error)
            log.warning("Can't cache the frames of %s (%s); they are decoded for every sample instead.", source, reason)
            del self._keys[source]
            return False
        return True


def cache_key(source: Source, memory: Memory | None = None, index: FrameIndex | ClipIndex | None = None) -> str:
    """Name of the cache entry of a video: changes with its bytes and with the decoder. Raises ``DatasetError``.

    ``index`` is needed for a clip.
    """
    memory = memory or Memory()
    match source:
        case ImageColumn():
            runs = [(memory.sha256(run.file), run.first, run.end) for run in source.rows.runs]
            # An image column in a separate file keeps the name that it had before tables were shared.
            what = runs[0][0] if source.rows.episode is None else repr(runs)
            named = f"{what}\0{source.column}\0"
        case Clip():
            assert isinstance(index, ClipIndex)  # noqa: S101 - narrows the type
            named = f"{memory.sha256(source.path)}\0{index.first}+{index.count}\0"
        case _:
            named = f"{memory.sha256(source)}\0"
    return hashlib.sha256(f"{named}{DECODER}".encode()).hexdigest()[:40]


def build_entry(folder: Path, source: Source, opened: Opened = Opened()) -> None:  # noqa: B008 - a constant
    """Decode ``source`` into the cache entry ``folder``, unless it is there. Safe against concurrent builders.

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
            _decode_into(temporary, source, opened)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _decode_into(folder: Path, source: Source, opened: Opened) -> None:
    if isinstance(source, ImageColumn):
        count, frames = _images(source, opened.groups)
    elif isinstance(opened.index, ClipIndex):
        index, decoders = opened.index, Decoders()
        count, frames = index.count, (frame_of(decoders, source, index, each) for each in range(index.count))
    else:
        count, frames = _shown(file_of(source), opened.index)
    decoded, shape = 0, None
    # Written as a stream, not through a memory map, where a full disk kills the process instead of raising.
    with (folder / "frames.npy").open("wb") as file:
        for frame in frames:
            if shape is None:
                shape = frame.shape
                np.lib.format.write_array_header_1_0(
                    file, {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
                )
            elif frame.shape != shape:
                raise DatasetError(f"{source}: frame {decoded} has another size than the first.", "Record it again.")
            file.write(frame.data)
            decoded += 1
        # Else a power cut after the rename could leave an entry that looks whole and holds zeros.
        file.flush()
        os.fsync(file.fileno())
    if decoded != count:
        raise DatasetError(f"{source}: frame {decoded} of {count} can't be decoded.", "Record or download it again.")


def _shown(path: Path, index: FrameIndex | None) -> tuple[int, Iterator[np.ndarray]]:
    """How many frames a video shows, and those of them that can be decoded in order."""
    pts = (index or index_frames(path)).pts

    def decode() -> Iterator[np.ndarray]:
        for expected, (found, frame) in zip(pts, decode_video(path), strict=False):
            if found != expected:
                return
            yield frame

    return len(pts), decode()


def frame_of(decoders: Decoders, video: Video, index: FrameIndex | ClipIndex, position: int) -> np.ndarray:
    """Frame ``position`` of a video, uint8 RGB ``[H, W, 3]``. Raises ``DatasetError`` when it can't be decoded."""
    if isinstance(index, ClipIndex):
        return decoders.frame(file_of(video), index.whole, index.first + position)
    return decoders.frame(file_of(video), index, position)


def _images(source: ImageColumn, groups: ImageGroups | None) -> tuple[int, Iterator[np.ndarray]]:
    reader = ImageReader(source, groups)
    return len(reader), map(reader.frame, range(len(reader)))


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
