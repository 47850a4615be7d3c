"""Frames of videos by their number: from the frame cache (``trainer/data/frame_cache.py``) as far as its bound goes;
beyond it they are decoded when they are needed.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trainer.config.settings import DISK_RESERVE
from trainer.data.clips import ClipIndex
from trainer.data.decoders import Decoders
from trainer.data.frame_cache import Entry, Opened, Source, build_entry, entry_names, evict, remove, sizes
from trainer.data.frame_indices import FrameIndices
from trainer.data.image_columns import ImageColumn, ImageGroups, ImageReader
from trainer.data.locations import Clip, Video, file_of
from trainer.data.lru_cache import LruCache
from trainer.data.planar import can_be_kept
from trainer.data.result_cache import ResultCache
from trainer.data.video import FrameIndex

log = logging.getLogger(__name__)

OPEN_TABLES = 8
OPEN_ENTRIES = 2048


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
        stored = sizes(self.cache_dir)
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
                remove(self.cache_dir / name)
                del others[name]
        evict(self.cache_dir, others, budget - sum(chosen.values()))
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


def frame_of(decoders: Decoders, video: Video, index: FrameIndex | ClipIndex, position: int) -> np.ndarray:
    """Frame ``position`` of a video, uint8 RGB ``[H, W, 3]``. Raises ``DatasetError`` when it can't be decoded."""
    if isinstance(index, ClipIndex):
        return decoders.frame(file_of(video), index.whole, index.first + position)
    return decoders.frame(file_of(video), index, position)
