"""Cameras recorded as images in the tables, one in each row: LeRobot with ``use_videos`` off.

They are read as they are, PNG or JPEG, and decoded by FFmpeg as videos are. Upstream reads videos only.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pyarrow as pa
from av.video.codeccontext import VideoCodecContext

from trainer.data.tables import opened_table, require_readable
from trainer.errors import DatasetError

_CODECS = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "mjpeg"}
"""By how a file begins."""
_MAX_PIXELS = "67108864"
_CURE = "Record it again with LeRobot, which puts the image files themselves into the column."


class ImageColumn(NamedTuple):
    """The images of one camera in one episode."""

    table: Path
    column: str

    def __str__(self) -> str:
        return f"{self.table}: {self.column!r}"


class ImageReader:
    """Random access to the images of a column; of the table only one row group at a time is in memory."""

    def __init__(self, source: ImageColumn) -> None:
        """Raises ``DatasetError`` when there is no such table or column."""
        self.source = source
        with opened_table(source.table) as table:
            if source.column not in table.schema_arrow.names:
                raise DatasetError(
                    f"{source.table}: no column {source.column!r}, where meta/info.json has a camera's images.", _CURE
                )
            counts = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
        self._ends = np.cumsum(counts)
        self._group: int | None = None
        self._images: pa.ChunkedArray | None = None

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def frame(self, row: int) -> np.ndarray:
        """The image in ``row``, uint8 RGB ``[H, W, 3]``. Raises ``DatasetError`` when there is none."""
        return decode_image(self.content(row), f"{self.source}, row {row}")

    def content(self, row: int) -> bytes:
        """The image in ``row`` as it is stored. Raises ``DatasetError`` when there is none."""
        group = int(np.searchsorted(self._ends, row, side="right"))
        if group != self._group:
            self.close()
            with opened_table(self.source.table) as table:
                require_readable(self.source.table, table, [self.source.column])
                self._images = _contents(table.read_row_group(group, columns=[self.source.column]).column(0))
            self._group = group
        assert self._images is not None  # noqa: S101 - narrows the type
        content = self._images[row - (int(self._ends[group - 1]) if group else 0)].as_py()
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
        return frames[0].to_ndarray(format="rgb24")
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
