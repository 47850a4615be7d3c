"""Frames of videos by their number, each video decoded once into a bounded cache on disk.

An entry is a folder with ``frames.npy`` (uint8 ``[N, H, W, 3]``, or the planes of ``trainer/data/planar.py``), mapped
into memory by all data loading processes. It is named by the hash of the video's bytes and the decoder's version, so
that a video that was recorded again or an upgraded decoder never gives stale frames, and copies of a dataset share
entries. Videos beyond the bound are decoded when they are needed. Images in a table are kept like a video.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from av.video.frame import VideoFrame

from trainer.config.settings import DISK_RESERVE
from trainer.data.clips import ClipIndex
from trainer.data.decoders import Decoders
from trainer.data.frame_indices import FrameIndices
from trainer.data.image_columns import ImageColumn, ImageGroups, ImageReader
from trainer.data.locations import Clip, Video, file_of
from trainer.data.lru_cache import LruCache
from trainer.data.planar import Colours, NotPlanarError, as_planes, can_be_kept
from trainer.data.result_cache import ResultCache
from trainer.data.video import DECODER, FrameIndex, decoded, index_frames, to_rgb
from trainer.disk import locked
from trainer.errors import DatasetError

log = logging.getLogger(__name__)

OPEN_TABLES = 8
OPEN_ENTRIES = 2048

Source = Video | ImageColumn
"""Where frames come from: a video, or the images in a table."""


class Opened(NamedTuple):
    """What is known or open of a source already."""

    index: FrameIndex | ClipIndex | None = None
    """Of a video. A clip needs it."""
    groups: ImageGroups | None = None
    """Images of the table."""
    planar: bool = False
    """Whether to keep the planes instead of RGB."""


class Entry(NamedTuple):
    """The frames of one source in the cache."""

    array: np.ndarray
    colours: Colours | None
    """Where the frames are planes."""

    @classmethod
    def of(cls, folder: Path) -> Entry:
        """What is in ``folder``. Raises ``OSError`` and ``ValueError``."""
        # As a plain array: slicing a np.memmap takes several times as long.
        return cls(np.load(folder / "frames.npy", mmap_mode="r").view(np.ndarray), Colours.read(folder))

    def frame(self, position: int) -> np.ndarray:
        """Uint8 RGB ``[H, W, 3]``."""
        stored = self.array[position]
        return stored if self.colours is None else self.colours.rgb(stored)


class Forms(NamedTuple):
    """The videos that can be kept as planes and are in the cache, by form; some are there in both."""

    rgb: set[Source]
    planes: set[Source]

    def planar(self, videos: Mapping[Source, int], can: set[Source], budget: int) -> set[Source]:
        """Which of those that ``can`` are planes for a GPU: all, or none where most lie there as RGB and all fit."""
        only_rgb = sum(videos[each] for each in self.rgb - self.planes)
        as_they_are = 2 * only_rgb > sum(videos[each] for each in can) and sum(videos.values()) <= budget
        return set() if as_they_are else set(can)


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
        memory: ResultCache | None = None,
    ) -> None:
        self.cache_dir = cache_dir
        self.max_bytes = max_bytes
        """Bound of the whole cache folder; without one, what the disk has free, less a reserve."""
        self.spare_bytes = spare_bytes
        """What others will need of the disk; entries give way to it."""
        self._memory = memory
        self._keys: dict[Source, str] = {}
        self._planar: set[Source] = set()
        # Small, and making one reads the whole file: kept when the decoder is closed, and given to workers.
        self._indices = FrameIndices(memory)
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        self._entries: OrderedDict[Source, Entry] = OrderedDict()
        self._decoders = Decoders()
        self._tables: LruCache[ImageColumn, ImageReader] = LruCache(OPEN_TABLES)
        self._groups = ImageGroups()

    def __getstate__(self) -> dict[str, Any]:
        kept = ("cache_dir", "max_bytes", "spare_bytes", "_keys", "_planar", "_indices")
        return {name: self.__dict__[name] for name in kept} | {"_memory": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def index(self, video: Video) -> FrameIndex | ClipIndex:
        """The frames of a video, without decoding one. Raises ``DatasetError`` when it is no readable video."""
        return self._indices.of(video)

    @property
    def planar(self) -> int:
        """How many of the planned videos are kept as planes, as far as is known before they are decoded."""
        return len(self._planar)

    def plan(self, videos: Sequence[tuple[Source, int]], *, as_planes: bool = False) -> int:
        """Choose which ``videos`` (source, bytes as RGB) are cached: as many as fit, in order. Returns how many.

        They are kept as RGB, with ``as_planes`` as planes (half the bytes) where they are 8-bit 4:2:0: for a training
        that converts them on its GPU. What the cache has in the other form is used as it is. As a batch is converted
        there only where all of its frames are planes, ``as_planes`` takes all of them in the form that most have, and
        drops the others. Where RGB doesn't fit, as many videos as needed are kept as planes, the last ones first.

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
        chosen = dict(videos)
        can: set[Source] = {
            each for each in chosen if not isinstance(each, ImageColumn) and can_be_kept(self.index(each))
        }
        with ThreadPoolExecutor(max_workers=4) as pool:
            names = dict(zip(chosen, pool.map(self._names, chosen), strict=True))
        there = Forms(
            rgb={each for each in can if names[each][0] in stored},
            planes={each for each in can if names[each][1] in stored},
        )
        self._planar = there.planar(chosen, can, budget) if as_planes else there.planes - there.rgb
        chosen = self._as_fit(chosen, can, budget, there, as_planes)
        self._keys = {each: names[each][each in self._planar] for each in chosen}
        others = {name: size for name, size in stored.items() if name not in self._keys.values()}
        if as_planes:
            twice = {names[each][each not in self._planar] for each in can & chosen.keys()}
            for name in twice & others.keys():
                self._remove(name)
                del others[name]
        self._evict(others, budget - sum(chosen.values()))
        if len(chosen) < len(videos):
            log.warning(
                "%d of %d videos fit the frame cache %s (%.1f GB); the others are decoded for every sample.",
                *(len(chosen), len(videos), self.cache_dir, budget / 1e9),
            )
        return len(chosen)

    def _as_fit(
        self, videos: dict[Source, int], can: set[Source], budget: int, there: Forms, as_planes: bool
    ) -> dict[Source, int]:
        """Those of ``videos`` (source, bytes as RGB) that fit, and their bytes; of those that ``can``, more are kept as
        planes where the rest doesn't fit.
        """
        wanted = {source: size // 2 if source in self._planar else size for source, size in videos.items()}
        if sum(wanted.values()) <= budget:
            return wanted
        chosen, left = {}, budget
        for source, size in videos.items():
            size = size // 2 if source in can else size
            if size > left:
                break
            chosen[source] = size
            left -= size
        if as_planes:
            self._planar = can & chosen.keys()
            return chosen
        before, self._planar = self._planar, can & chosen.keys()
        rest = [source for source in chosen if source in self._planar and source not in before]
        for source in sorted(rest, key=lambda each: each not in there.rgb):
            if (more := videos[source] - chosen[source]) <= left:
                self._planar.remove(source)
                chosen[source] += more
                left -= more
        return chosen

    def name(self, source: Source) -> str:
        """Changes with the frames of ``source``. Raises ``DatasetError``."""
        return self._names(source)[0]

    def _names(self, source: Source) -> tuple[str, str]:
        return entry_names(source, self._memory, self._indices.of(source) if isinstance(source, Clip) else None)

    def _evict(self, others: dict[str, int], room: int) -> None:
        assert self.cache_dir is not None  # noqa: S101 - narrows the type
        used = sum(others.values())
        for entry in sorted((self.cache_dir / name for name in others), key=_last_use):
            if used <= room:
                return
            used -= others[entry.name]
            self._remove(entry.name)

    def _remove(self, name: str) -> None:
        assert self.cache_dir is not None  # noqa: S101 - narrows the type
        # Renamed first: another process finds the entry whole or not at all, and then builds it again.
        gone = self.cache_dir / f"{name}.evicted-{os.getpid()}"
        with suppress(OSError):
            (self.cache_dir / name).rename(gone)
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
        """Frame ``position`` of ``source``, uint8 RGB ``[H, W, 3]``. One that the cache has as RGB is not copied: it is
        read-only, and read from the disk when it is used.

        Raises ``DatasetError`` when the video can't be decoded.
        """
        entry = self._entry(source)
        if entry is not None:
            return entry.frame(position)
        if isinstance(source, ImageColumn):
            return self._tables.get_or_open(source, lambda: ImageReader(source, self._groups)).frame(position)
        return frame_of(self._decoders, source, self.index(source), position)

    def planes(self, source: Source) -> Entry | None:
        """Where the cache holds ``source`` as planes, those. Raises ``DatasetError`` as ``frame`` does."""
        entry = self._entry(source)
        return entry if entry is not None and entry.colours is not None else None

    def _entry(self, source: Source) -> Entry | None:
        if self._process != os.getpid():
            self._reset()  # a forked worker must not share file positions with its parent
            self._memory = None
            self._indices.enter_process()
        if source in self._entries:
            self._entries.move_to_end(source)
            return self._entries[source]
        if source not in self._keys or not self._build_or_warn(source):
            return None
        try:
            entry = Entry.of(self._folder(source))
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
                build_entry(folder, source, Opened(index, self._groups, source in self._planar))
        except OSError as error:
            reason = "the disk is full" if error.errno == errno.ENOSPC else str(error)
            log.warning("Can't cache the frames of %s (%s); they are decoded for every sample instead.", source, reason)
            del self._keys[source]
            return False
        return True


def entry_names(
    source: Source, memory: ResultCache | None = None, index: FrameIndex | ClipIndex | None = None
) -> tuple[str, str]:
    """Names of the cache entry of a video, as RGB and as planes: they change with its bytes and with the decoder.

    ``index`` is needed for a clip. Raises ``DatasetError``.
    """
    memory = memory or ResultCache()
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
    rgb, planes = (hashlib.sha256(f"{named}{form}{DECODER}".encode()).hexdigest()[:40] for form in ("", "planes\0"))
    return rgb, planes


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
        reader = ImageReader(source, opened.groups)
        _write(folder, source, len(reader), map(reader.frame, range(len(reader))))
    elif not (opened.planar and _wrote_planes(folder, source, opened.index)):
        count, frames = _in_order(source, opened.index)
        _write(folder, source, count, map(to_rgb, frames))


def _wrote_planes(folder: Path, video: Video, index: FrameIndex | ClipIndex | None) -> bool:
    count, frames = _in_order(video, index)
    try:
        _write(folder, video, count, as_planes(frames, folder))
    except NotPlanarError:
        Colours.forget(folder)
        return False
    return True


def _write(folder: Path, source: Source, count: int, frames: Iterable[np.ndarray]) -> None:
    done, shape = 0, None
    # Written as a stream, not through a memory map, where a full disk kills the process instead of raising.
    with (folder / "frames.npy").open("wb") as file:
        for frame in frames:
            if shape is None:
                shape = frame.shape
                np.lib.format.write_array_header_1_0(
                    file, {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
                )
            elif frame.shape != shape:
                raise DatasetError(f"{source}: frame {done} has another size than the first.", "Record it again.")
            file.write(np.ascontiguousarray(frame).data)  # lines of some widths are padded
            done += 1
        # Else a power cut after the rename could leave an entry that looks whole and holds zeros.
        file.flush()
        os.fsync(file.fileno())
    if done != count:
        raise DatasetError(f"{source}: frame {done} of {count} can't be decoded.", "Record or download it again.")


def _in_order(video: Video, index: FrameIndex | ClipIndex | None) -> tuple[int, Iterator[VideoFrame]]:
    """How many frames a video shows, and those of them that can be decoded in order."""
    if isinstance(index, ClipIndex):
        decoders, shown = Decoders(), range(index.first, index.first + index.count)
        return index.count, (decoders.decoded(file_of(video), index.whole, each) for each in shown)
    pts = (index or index_frames(file_of(video))).pts

    def decode() -> Iterator[VideoFrame]:
        for expected, (found, frame) in zip(pts, decoded(file_of(video)), strict=False):
            if found != expected:
                return
            yield frame

    return len(pts), decode()


def frame_of(decoders: Decoders, video: Video, index: FrameIndex | ClipIndex, position: int) -> np.ndarray:
    """Frame ``position`` of a video, uint8 RGB ``[H, W, 3]``. Raises ``DatasetError`` when it can't be decoded."""
    if isinstance(index, ClipIndex):
        return decoders.frame(file_of(video), index.whole, index.first + position)
    return decoders.frame(file_of(video), index, position)


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
