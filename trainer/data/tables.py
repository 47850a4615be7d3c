"""Reads the parquet tables of episodes into numpy arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainer.data.dataset_meta import is_lfs_pointer
from trainer.errors import DatasetError

# Arrow's own allocator keeps what the reading threads have freed, 30 MB for five episodes, while the process lives.
pa.set_memory_pool(pa.system_memory_pool())


def read_columns(file: Path, columns: Sequence[str]) -> dict[str, np.ndarray]:
    """Read ``columns`` of one episode: numbers as ``[T]``, lists as ``[T, D]``, text as an object array ``[T]``.

    Raises ``DatasetError`` when the file or a column is missing or broken, or when the lists differ in length.
    """
    with _opened(file) as table:
        missing = sorted(set(columns) - set(table.schema_arrow.names))
        if missing:
            raise DatasetError(
                f"{file}: no column {missing[0]!r}; it has {', '.join(table.schema_arrow.names)}.",
                "Correct original_key in meta/modality.json.",
            )
        data = table.read(columns=list(dict.fromkeys(columns)))
    return {name: _array(data.column(name), file, name) for name in dict.fromkeys(columns)}


def row_count(file: Path) -> int:
    """Rows of an episode, from the file's footer. Raises ``DatasetError`` when it is missing or broken."""
    with _opened(file) as table:
        return table.metadata.num_rows


@contextmanager
def _opened(file: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(file, memory_map=True) as table:
            yield table
    except FileNotFoundError:
        raise DatasetError(f"{file}: missing.", "Download it again, or remove it from meta/episodes.jsonl.") from None
    except (OSError, pa.ArrowException) as error:
        if is_lfs_pointer(file):
            raise DatasetError(f"{file}: a git-lfs pointer, not the data.", "Run `git lfs pull`.") from error
        raise DatasetError(f"{file}: not a readable parquet file ({error}).", "Download it again.") from error


def _array(column: pa.ChunkedArray, file: Path, name: str) -> np.ndarray:
    values = column.combine_chunks()
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], column.type)
    if not (pa.types.is_list(values.type) or pa.types.is_fixed_size_list(values.type)):
        return values.to_numpy(zero_copy_only=False)
    flat = values.flatten().to_numpy(zero_copy_only=False)
    rows = len(values)
    lengths = set(np.asarray(values.value_lengths().to_numpy(zero_copy_only=False)).tolist()) if rows else {0}
    if len(lengths) != 1 or values.null_count:
        raise DatasetError(f"{file}: the rows of {name!r} differ in length.", "Every row needs all dimensions.")
    return flat.reshape(rows, -1)


def as_matrix(column: np.ndarray) -> np.ndarray:
    """A column as float64 ``[T, D]``; one number per row becomes ``[T, 1]``."""
    values = np.asarray(column, dtype=np.float64)
    return values[:, None] if values.ndim == 1 else values
