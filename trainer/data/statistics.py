"""Per-dimension statistics of state and action columns (``meta/stats.json``).

Missing or unusable statistics are computed from the tables, as upstream's ``calculate_dataset_statistics`` does:
float32 values, population standard deviation, linearly interpolated quantiles; but summed in float64, since float32's
sums are off by any factor once a dataset is large. Unlike upstream's, the result is not written into the dataset: a
dataset folder is a snapshot whose digest names its bytes, and computing is quick.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from pydantic import BaseModel, ValidationError, model_validator

from trainer.data.configs import DataConfig
from trainer.data.dataset_meta import DatasetMeta
from trainer.data.info import InfoV3
from trainer.data.meta_files import Number, read_json
from trainer.errors import DatasetError

REMOVE = "Delete it, or train with --recompute-statistics: then they are computed from the data."


class Statistics(BaseModel):
    """Statistics of one column or key; every list has one number per dimension. Field order is upstream's."""

    max: list[Number]
    min: list[Number]
    mean: list[Number]
    std: list[Number]
    q01: list[Number]
    q99: list[Number]

    @model_validator(mode="after")
    def _usable(self) -> Statistics:
        if len({len(getattr(self, name)) for name in type(self).model_fields}) != 1:
            raise ValueError("the lists differ in length")
        return self

    def slice(self, start: int, end: int) -> Statistics:
        """The statistics of dimensions ``start`` to ``end``."""
        return Statistics(**{name: getattr(self, name)[start:end] for name in type(self).model_fields})


def load_statistics(meta: DatasetMeta, config: DataConfig | None = None) -> dict[str, Statistics]:
    """Statistics of every column that ``config``, or else ``modality.json``, takes states and actions from.

    Read from ``meta/stats.json``; columns that it lacks, or describes unusably (no quantiles, NaN, too few
    dimensions), are computed from the tables. Raises ``DatasetError`` when the data itself holds NaN or infinities.
    """
    widths = needed_columns(meta, config)
    try:
        stored = read_statistics(meta)
    except DatasetError:
        stored = {}
    found = usable(stored, widths)
    return {**found, **compute_statistics(meta, [column for column in widths if column not in found], config)}


def needed_columns(meta: DatasetMeta, config: DataConfig | None = None) -> dict[str, int]:
    """Columns of the state and action entries that ``config`` uses, or of all, with the least width each must have."""
    widths: dict[str, int] = {}
    for modality in ("state", "action"):
        entries = getattr(meta.modality, modality)
        for key in config.keys(modality) if config else entries:
            column = meta.modality.column(modality, key)
            widths[column] = max(widths.get(column, 0), entries[key].end)
    return widths


def read_statistics(meta: DatasetMeta) -> dict[str, Any]:
    """The columns of ``meta/stats.json`` as they stand there; empty when there is no such file, and for LeRobot v3.

    v3 merges the quantiles of episodes by their mean, which are not those of the data (upstream's ``aggregate_stats``).
    Raises ``DatasetError`` when it is not a JSON object.
    """
    file = meta.path / "meta/stats.json"
    if isinstance(meta.info, InfoV3) or not file.exists():
        return {}
    document = read_json(file, cure=REMOVE)
    if not isinstance(document, dict):
        raise DatasetError(f"{file}: not a JSON object.", REMOVE)
    return document


def usable(stored: dict[str, Any], widths: dict[str, int]) -> dict[str, Statistics]:
    """Those of the ``stored`` columns that are described completely, in at least the dimensions of ``widths``."""
    found = {}
    for column, width in widths.items():
        try:
            described = Statistics.model_validate(stored.get(column))
        except ValidationError:
            continue
        if len(described.mean) >= width:
            found[column] = described
    return found


def used_dimensions(meta: DatasetMeta, column: str, width: int, config: DataConfig | None = None) -> np.ndarray:
    """Which dimensions of ``column`` the entries that ``config`` uses, or else all, take, ``[width]``."""
    keys = {kind: config.keys(kind) if config else meta.modality.keys(kind) for kind in ("state", "action")}
    return _dimensions(meta, column, width, keys)


def normalised_dimensions(meta: DatasetMeta, column: str, width: int, config: DataConfig) -> np.ndarray:
    """Which dimensions of ``column`` are scaled by their statistics under ``config``, ``[width]``.

    Sines and cosines, converted rotations and what is binary have bounds of their own.
    """
    keys = {
        kind: [
            feature.key
            for feature in getattr(config, kind)
            if feature.normalise not in (None, "binary") and not feature.rotation
        ]
        for kind in ("state", "action")
    }
    return _dimensions(meta, column, width, keys)


def _dimensions(meta: DatasetMeta, column: str, width: int, keys: dict[str, list[str]]) -> np.ndarray:
    found = np.zeros(width, dtype=bool)
    for kind, names in keys.items():
        for key in names:
            if meta.modality.column(kind, key) == column:
                entry = getattr(meta.modality, kind)[key]
                found[entry.start : entry.end] = True
    return found


def compute_statistics(
    meta: DatasetMeta, columns: Iterable[str], config: DataConfig | None = None
) -> dict[str, Statistics]:
    """Compute the statistics of ``columns`` over all episodes.

    Raises ``DatasetError`` for NaN or infinities in dimensions that ``config`` uses.
    """
    from trainer.data.tables import as_matrix

    columns = list(columns)
    if not columns:
        return {}

    def read(episode: int) -> dict[str, np.ndarray]:
        file = meta.where(episode)
        table = meta.columns(episode, columns)
        for column, values in table.items():
            if not np.issubdtype(values.dtype, np.number) and values.dtype != np.bool_:
                raise DatasetError(f"{file}: {column!r} holds text, not numbers.", "Correct original_key.")
            table[column] = as_matrix(values).astype(np.float32)
            used = used_dimensions(meta, column, table[column].shape[1], config)
            if not np.isfinite(table[column][:, used]).all():
                raise DatasetError(
                    f"{file}: NaN or infinite values in {column!r}.", "Remove the episode or record it again."
                )
        return table

    with ThreadPoolExecutor(max_workers=8) as pool:
        tables = list(pool.map(read, (episode.episode_index for episode in meta.episodes)))
    return {column: statistics_of([table[column] for table in tables]) for column in columns}


def statistics_of(values: np.ndarray | Sequence[np.ndarray]) -> Statistics:
    """Statistics of ``values`` ``[T, D]`` or ``[T]``, or of several such together: of float32, summed in float64.

    Of a dimension only what is finite counts.
    """
    parts = [values] if isinstance(values, np.ndarray) else values
    parts = [part[:, None] if part.ndim == 1 else part for part in parts]
    numbers: dict[str, list[float]] = {name: [] for name in Statistics.model_fields}
    for dimension in range(parts[0].shape[1]):  # one at a time: quantiles take a sorted copy
        column = np.concatenate([part[:, dimension] for part in parts], dtype=np.float32, casting="unsafe")
        if not np.isfinite(column).all():
            column = column[np.isfinite(column)] if np.isfinite(column).any() else np.zeros(1, np.float32)
        for name, value in (
            ("max", column.max()),
            ("min", column.min()),
            ("mean", column.mean(dtype=np.float64)),
            ("std", column.std(dtype=np.float64)),
            ("q01", np.quantile(column, 0.01)),
            ("q99", np.quantile(column, 0.99)),
        ):
            numbers[name].append(float(value))
    return Statistics(**numbers)
