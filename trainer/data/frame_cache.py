"""Entries of the frame cache: the frames of a video, decoded once, in a folder on disk.

An entry has ``frames.npy`` (uint8 ``[N, H, W, 3]``, or the planes of ``trainer/data/planar.py``), mapped into memory by
all data loading processes. It is named by the hash of the video's bytes and the decoder's version, so that a video that
was recorded again or an upgraded decoder never gives stale frames, and copies of a dataset share entries. Images in a
table are kept like a video.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from av.video.frame import VideoFrame

from trainer.data.clips import ClipIndex
from trainer.data.decoders import Decoders
from trainer.data.image_columns import ImageColumn, ImageGroups, ImageReader
from trainer.data.locations import Clip, Video, file_of
from trainer.data.planar import Colours, NotPlanarError, as_planes
from trainer.data.result_cache import ResultCache
from trainer.data.video import DECODER, FrameIndex, decoded, index_frames, to_rgb
from trainer.disk import locked
from trainer.errors import DatasetError

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


def sizes(cache_dir: Path) -> dict[str, int]:
    """The bytes of every entry of a cache, by its name."""
    return {entry.name: _size(entry) for entry in cache_dir.iterdir() if entry.is_dir() and not entry.suffix}


def evict(cache_dir: Path, entries: Mapping[str, int], room: int) -> None:
    """Remove the longest unused of ``entries`` (their bytes by name) until they take no more than ``room`` bytes."""
    used = sum(entries.values())
    for entry in sorted((cache_dir / name for name in entries), key=_last_use):
        if used <= room:
            return
        used -= entries[entry.name]
        remove(entry)


def remove(entry: Path) -> None:
    """Remove an entry, as far as the disk allows."""
    # Renamed first: another process finds the entry whole or not at all, and then builds it again.
    gone = entry.with_name(f"{entry.name}.evicted-{os.getpid()}")
    with suppress(OSError):
        entry.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


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
