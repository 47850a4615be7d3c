"""Cameras recorded as images in the tables, one in each row: LeRobot with ``use_videos`` off.

They are read as they are, PNG or JPEG, and decoded by FFmpeg as videos are. Upstream reads videos only.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pyarrow as pa
from av.video.codeccontext import VideoCodecContext

from trainer.data.locations import TableRows
from trainer.data.tables import MAX_SHARED_ROWS, opened_table, require_readable
from trainer.data.video import to_rgb
from trainer.errors import DatasetError

_CODECS = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "mjpeg"}
"""By how a file begins."""
_KEPT_BYTES = 256 << 20
_MAX_PIXELS = "67108864"
_CURE = "Record it again with LeRobot, which puts the image files themselves into the column."


class ImageColumn(NamedTuple):
    """The images of one camera in one episode."""

    rows: TableRows
    column: str

    def __str__(self) -> str:
        return f"{self.rows}: {self.column!r}"


class ImageGroups:
    """Images of tables as they are stored, a row group at a time; the last ones stay in memory, for any thread.

    A row group may hold the images of many episodes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[Path, str, int], pa.ChunkedArray] = OrderedDict()

    def get(self, file: Path, column: str, group: int) -> pa.ChunkedArray:
        """The images in a row group. Raises ``DatasetError``."""
        key = (file, column, group)
        with self._lock:
            if key not in self._kept:
                with opened_table(file) as table:
                    require_readable(file, table, [column], MAX_SHARED_ROWS, groups=[group])
                    self._kept[key] = _contents(table.read_row_group(group, columns=[column]).column(0))
                while len(self._kept) > 1 and sum(each.nbytes for each in self._kept.values()) > _KEPT_BYTES:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return self._kept[key]


class ImageReader:
    """Random access to the images of a column; of the table only one row group at a time is in memory."""

    def __init__(self, source: ImageColumn, groups: ImageGroups | None = None) -> None:
        """``groups`` keeps what several readers need. Raises ``DatasetError`` when there is no such table or column."""
        self.source = source
        self._groups = groups or ImageGroups()
        self._ends: dict[Path, np.ndarray] = {}
        for file in dict.fromkeys(run.file for run in source.rows.runs):
            with opened_table(file) as table:
                if source.column not in table.schema_arrow.names:
                    raise DatasetError(
                        f"{file}: no column {source.column!r}, where meta/info.json has a camera's images.", _CURE
                    )
                counts = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
            self._ends[file] = np.cumsum(counts)
        self._places = [
            (run.file, row)
            for run in source.rows.runs
            for row in range(run.first, self._rows(run.file) if run.end is None else run.end)
        ]
        self._group: tuple[Path, int] | None = None
        self._images: pa.ChunkedArray | None = None

    def _rows(self, file: Path) -> int:
        return int(self._ends[file][-1]) if len(self._ends[file]) else 0

    def __len__(self) -> int:
        return len(self._places)

    def frame(self, row: int) -> np.ndarray:
        """The image in ``row``, uint8 RGB ``[H, W, 3]``. Raises ``DatasetError`` when there is none."""
        return decode_image(self.content(row), f"{self.source}, row {row}")

    def content(self, row: int) -> bytes:
        """The image in ``row`` as it is stored. Raises ``DatasetError`` when there is none."""
        file, place = self._places[row]
        ends = self._ends[file]
        group = int(np.searchsorted(ends, place, side="right"))
        if (file, group) != self._group:
            self.close()
            self._images = self._groups.get(file, self.source.column, group)
            self._group = (file, group)
        assert self._images is not None  # noqa: S101 - narrows the type
        content = self._images[place - (int(ends[group - 1]) if group else 0)].as_py()
        if not isinstance(content, bytes) or not content:
            raise DatasetError(f"{self.source}: no image in row {row}.", _CURE)
        return content

    def close(self) -> None:
        """Give the memory back."""
        self._group, self._images = None, None


def decode_image(content: bytes, where: str) -> np.ndarray:
    """A PNG or JPEG file as uint8 RGB ``[H, W, 3]``. Raises ``DatasetError`` that says ``where``."""
    codec = next((name for start, name in _CODECS.items() if content.startswith(start)), None)
    if codec is None:
        raise DatasetError(f"{where}: neither PNG nor JPEG.", _CURE)
    try:
        decoder = av.CodecContext.create(codec, "r")
        assert isinstance(decoder, VideoCodecContext)  # noqa: S101 - narrows the type
        decoder.options = {"max_pixels": _MAX_PIXELS}
        decoder.thread_count = 1
        frames = [*decoder.decode(av.Packet(content)), *decoder.decode(None)]
        return to_rgb(frames[0])
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise DatasetError(f"{where}: the image can't be decoded ({error}).", _CURE) from error


def _contents(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The files in a column of bytes, or of LeRobot's pairs of bytes and path."""
    chunks = []
    for chunk in column.chunks:
        plain = chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk
        if pa.types.is_struct(plain.type):
            plain = plain.field("bytes") if plain.type.get_field_index("bytes") >= 0 else pa.nulls(len(plain))
        chunks.append(plain)
    return pa.chunked_array(chunks)
