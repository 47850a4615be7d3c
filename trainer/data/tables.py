"""Reads the parquet tables of episodes into numpy arrays, as pandas would, whatever wrote them.

Lists may be of any Arrow kind (polars writes large ones, others fixed-size ones), numbers of any width, and columns
dictionaries (pandas' categories), extension types or chunks.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trainer.data.meta_files import is_lfs_pointer
from trainer.data.paths import require_file
from trainer.errors import DatasetError

# Arrow's own allocator keeps what the reading threads have freed, 30 MB for five episodes, while the process lives.
pa.set_memory_pool(pa.system_memory_pool())

MAX_ROWS = 1_000_000
"""Of an episode: nine hours at 30 a second."""
MAX_SHARED_ROWS = 10_000_000
"""Of a table with many episodes."""
MAX_VALUES = 48 << 20
MAX_BYTES = 512 << 20
MAX_TEXT = 128 << 20
_LIMITS = {
    "thrift_string_size_limit": 16 << 20,
    "thrift_container_size_limit": 200_000,
    "schema_depth_limit": 32,
}
"""Of what the footer announces."""
DOWNLOAD = "Download it again, or remove it from meta/episodes.jsonl."
_SPLIT = "Is it one episode? Record it again in shorter ones."
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def read_columns(
    file: Path,
    columns: Sequence[str],
    optional: Sequence[str] = (),
    *,
    most_rows: int = MAX_ROWS,
    cure: str = DOWNLOAD,
) -> dict[str, np.ndarray]:
    """Read ``columns`` of one episode: numbers as ``[T]``, lists as ``[T, D]``, text as an object array ``[T]``.

    Nulls among numbers become NaN, among text None; times and durations are in seconds. ``optional`` columns are left
    out where they are missing or can't be read so. Raises ``DatasetError`` when the file or another column is missing
    or broken, or when the lists differ in length. ``cure`` is that of a missing file.
    """
    return to_arrays(read_table(file, columns, optional, most_rows=most_rows, cure=cure), columns, str(file))


def read_table(
    file: Path,
    columns: Sequence[str],
    optional: Sequence[str] = (),
    *,
    most_rows: int = MAX_ROWS,
    cure: str = DOWNLOAD,
) -> pa.Table:
    """``columns`` of a file, and those of ``optional`` that there are, as Arrow has them. Raises ``DatasetError``."""
    with opened_table(file, cure) as table:
        names = table.schema_arrow.names
        absent = sorted(set(columns) - set(names))
        if absent:
            raise DatasetError(
                f"{file}: no column {absent[0]!r}; it has {', '.join(names)}.",
                "Correct original_key in meta/modality.json.",
            )
        wanted = list(dict.fromkeys([*columns, *(name for name in optional if name in names)]))
        for name in wanted:
            if names.count(name) > 1:
                raise DatasetError(f"{file}: two columns are called {name!r}.", "Keep one of them.")
        require_readable(file, table, wanted, most_rows)
        return table.read(columns=wanted)


def to_arrays(data: pa.Table, columns: Sequence[str], where: str) -> dict[str, np.ndarray]:
    """The columns of ``data`` as ``read_columns`` gives them; those not among ``columns`` are optional.

    Raises ``DatasetError`` that says ``where``.
    """
    arrays = {}
    for name in data.column_names:
        try:
            arrays[name] = _array(data.column(name), where, name)
        except DatasetError:
            if name in columns:
                raise
    return arrays


def column_names(file: Path, cure: str = DOWNLOAD) -> list[str]:
    """The columns of a table. Raises ``DatasetError`` when it is missing or broken."""
    with opened_table(file, cure) as table:
        return list(table.schema_arrow.names)


@contextmanager
def opened_table(file: Path, cure: str = DOWNLOAD) -> Generator[pq.ParquetFile]:
    """A table, open for reading. Texts and bytes come as dictionaries: the same one again and again may be gigabytes.

    Raises ``DatasetError``, also for what goes wrong while it is read; ``cure`` is that of a missing file.
    """
    try:
        require_file(file)
        with pq.ParquetFile(file, memory_map=True, **_LIMITS) as table:
            columns = [table.schema.column(number) for number in range(table.metadata.num_columns)]
            texts = [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]
            if not texts:
                yield table
                return
            about = table.metadata
        with pq.ParquetFile(file, memory_map=True, metadata=about, read_dictionary=texts, **_LIMITS) as table:
            yield table
    except FileNotFoundError:
        raise DatasetError(f"{file}: missing.", cure) from None
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        if file.is_file() and is_lfs_pointer(file):
            raise DatasetError(f"{file}: a git-lfs pointer, not the data.", "Run `git lfs pull`.") from error
        raise DatasetError(f"{file}: not a readable parquet file ({error}).", "Download it again.") from error


def require_readable(
    file: Path,
    table: pq.ParquetFile,
    columns: Sequence[str],
    most_rows: int = MAX_ROWS,
    cure: str = _SPLIT,
    groups: Sequence[int] | None = None,
) -> None:
    """Raise ``DatasetError`` where ``columns`` would be more in memory than an episode is: a few kilobytes may announce
    a billion rows, or unpack to gigabytes. Only the row ``groups`` are meant to be read, by default all.
    """
    about, schema = table.metadata, table.schema
    if about.num_rows > most_rows:
        raise DatasetError(f"{file}: {about.num_rows:,} rows; at most {most_rows:,} can be meant.", cure)
    chosen = [
        number
        for number in range(about.num_columns)
        if any(
            schema.column(number).path == name or schema.column(number).path.startswith(f"{name}.") for name in columns
        )
    ]
    values = size = 0
    for group in range(about.num_row_groups) if groups is None else groups:
        for number in chosen:
            chunk = about.row_group(group).column(number)
            values += chunk.num_values
            size += chunk.total_uncompressed_size
        if values > MAX_VALUES or size > MAX_BYTES:
            raise DatasetError(
                f"{file}: {', '.join(columns[:3])} unpack to {max(size, 8 * values) / 1e6:,.0f} MB or more.", cure
            )


def as_matrix(column: np.ndarray) -> np.ndarray:
    """A column of numbers as float64 ``[T, D]``; one number per row becomes ``[T, 1]``."""
    values = np.asarray(column, dtype=np.float64)
    return values[:, None] if values.ndim == 1 else values


def _array(column: pa.ChunkedArray, file: str, name: str) -> np.ndarray:
    try:
        chunks = [_plain(chunk) for chunk in column.chunks] or [_plain(pa.array([], column.type))]
        values = chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks)
        return _lists(values, file, name) if _is_list(values.type) else _scalars(values, file, name)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DatasetError(
            f"{file}: {name!r} can't be read as numbers or text: it is {column.type} ({error}).",
            "Write it as plain numbers, lists of numbers or text.",
        ) from error


def _plain(values: pa.Array) -> pa.Array:
    """Without the wrappings: extension types, dictionaries, runs and views of lists."""
    if isinstance(values, pa.ExtensionArray):
        return _plain(values.storage)
    if isinstance(values, pa.DictionaryArray):
        if _text_bytes(values) > MAX_TEXT:
            raise ValueError("the texts are larger than any instructions")
        return _plain(values.dictionary_decode())
    if isinstance(values, pa.RunEndEncodedArray):
        return _plain(pc.call_function("run_end_decode", [values]))
    if pa.types.is_list_view(values.type) or pa.types.is_large_list_view(values.type):
        return values.cast(pa.large_list(values.type.value_type))
    return values


def _text_bytes(values: pa.DictionaryArray) -> int:
    """Bytes of the texts of a dictionary's column, each written out."""
    if not (pa.types.is_string(values.type.value_type) or pa.types.is_binary(values.type.value_type)):
        return 0
    lengths = pc.call_function("binary_length", [values.dictionary])
    return int(np.nansum(lengths.take(values.indices).to_numpy(zero_copy_only=False)))


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or kind == pa.bool_()


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _lists(values: pa.Array, file: str, name: str) -> np.ndarray:
    rows = len(values)
    if values.null_count:
        first = pc.index(values.is_null(), True).as_py()
        raise DatasetError(f"{file}: {name!r} is empty in row {first}.", "Every row needs all dimensions.")
    lengths = (
        pc.call_function("list_value_length", [values]).to_numpy(zero_copy_only=False)
        if rows
        else np.zeros(1, np.int64)
    )
    if (different := np.flatnonzero(lengths != lengths[0])).size:
        row = int(different[0])
        raise DatasetError(
            f"{file}: the rows of {name!r} differ in length: {lengths[0]} in row 0, {lengths[row]} in row {row}.",
            "Every row needs all dimensions.",
        )
    inner = _plain(values.flatten())
    if _is_list(inner.type):
        raise DatasetError(
            f"{file}: the rows of {name!r} are nested one level too deep, [[…]] instead of […].",
            "Write each row as one flat list of numbers: the recording probably wrapped it in a list once more.",
        )
    return _scalars(inner, file, name).reshape(rows, -1)


def _scalars(values: pa.Array, file: str, name: str) -> np.ndarray:
    kind = values.type
    if pa.types.is_null(kind):
        return np.full(len(values), np.nan)
    if pa.types.is_decimal(kind):
        values = values.cast(pa.float64())
    elif pa.types.is_boolean(kind) and values.null_count:
        values = values.cast(pa.uint8())
    elif pa.types.is_duration(kind) or pa.types.is_timestamp(kind):
        ticks = values.cast(pa.int64()).to_numpy(zero_copy_only=False)
        return ticks.astype(np.float64) * _SECONDS[kind.unit]
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        values = values.cast(pa.large_string())  # text by a writer that doesn't say so; raises where it is none
    elif not (_is_number(kind) or _is_text(kind)):
        raise DatasetError(f"{file}: {name!r} holds {kind}, not numbers.", "Correct original_key.")
    return values.to_numpy(zero_copy_only=False)
