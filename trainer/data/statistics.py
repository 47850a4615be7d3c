"""Per-dimension statistics of state and action columns (``meta/stats.json``).

Missing or unusable statistics are computed from the tables, as upstream's ``calculate_dataset_statistics`` does:
float32 values, population standard deviation, linearly interpolated quantiles. Unlike upstream's, the result is not
written into the dataset: a dataset folder is a snapshot whose digest names its bytes, and computing is quick.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from pydantic import BaseModel, ValidationError, model_validator

from trainer.data.dataset_meta import DatasetMeta, read_text
from trainer.errors import DatasetError


class Statistics(BaseModel):
    """Statistics of one column or key; every list has one number per dimension. Field order is upstream's."""

    max: list[float]
    min: list[float]
    mean: list[float]
    std: list[float]
    q01: list[float]
    q99: list[float]

    @model_validator(mode="after")
    def _usable(self) -> Statistics:
        lists = [getattr(self, name) for name in type(self).model_fields]
        if len({len(values) for values in lists}) != 1:
            raise ValueError("the lists differ in length")
        if not np.isfinite(np.array(lists)).all():
            raise ValueError("NaN or infinite values")
        return self

    def slice(self, start: int, end: int) -> Statistics:
        """The statistics of dimensions ``start`` to ``end``."""
        return Statistics(**{name: getattr(self, name)[start:end] for name in type(self).model_fields})


def load_statistics(meta: DatasetMeta) -> dict[str, Statistics]:
    """Statistics of every column ``modality.json`` takes states and actions from.

    Read from ``meta/stats.json``; columns that it lacks, or describes unusably (no quantiles, NaN, too few
    dimensions), are computed from the tables. Raises ``DatasetError`` when the data itself holds NaN or infinities.
    """
    widths = needed_columns(meta)
    try:
        stored = read_stats_json(meta)
    except DatasetError:
        stored = {}
    found = {column: stored[column] for column, width in widths.items() if _covers(stored.get(column), width)}
    absent = [column for column in widths if column not in found]
    return {**found, **compute_statistics(meta, absent)}


def needed_columns(meta: DatasetMeta) -> dict[str, int]:
    """Columns of all state and action entries of ``modality.json``, with the least width each must have."""
    widths: dict[str, int] = {}
    for modality in ("state", "action"):
        for key, entry in getattr(meta.modality, modality).items():
            column = meta.modality.column(modality, key)
            widths[column] = max(widths.get(column, 0), entry.end)
    return widths


def read_stats_json(meta: DatasetMeta) -> dict[str, Statistics]:
    """The usable columns of ``meta/stats.json``. Raises ``DatasetError`` when the file is missing or not JSON."""
    file = meta.path / "meta/stats.json"
    try:
        document = json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise DatasetError(f"{file}: not JSON ({error}).", "Delete it: it will be computed from the data.") from error
    usable = {}
    for column, described in document.items() if isinstance(document, dict) else ():
        try:
            usable[column] = Statistics.model_validate(described)
        except ValidationError:
            continue
    return usable


def compute_statistics(meta: DatasetMeta, columns: Iterable[str]) -> dict[str, Statistics]:
    """Compute the statistics of ``columns`` over all episodes. Raises ``DatasetError`` for NaN or infinite data."""
    from trainer.data.tables import read_columns

    columns = list(columns)
    if not columns:
        return {}

    def read(episode: int) -> dict[str, np.ndarray]:
        table = read_columns(meta.parquet_path(episode), columns)
        for column, values in table.items():
            if not np.isfinite(values).all():
                raise DatasetError(
                    f"{meta.parquet_path(episode)}: NaN or infinite values in {column!r}.",
                    "Remove the episode or record it again.",
                )
        return table

    with ThreadPoolExecutor(max_workers=8) as pool:
        tables = list(pool.map(read, (episode.episode_index for episode in meta.episodes)))
    return {column: statistics_of(np.concatenate([table[column] for table in tables])) for column in columns}


def statistics_of(values: np.ndarray) -> Statistics:
    """Statistics of ``values`` ``[T, D]`` or ``[T]``, in upstream's precision."""
    values = np.asarray(values, dtype=np.float32)
    values = values[:, None] if values.ndim == 1 else values
    numbers: dict[str, Any] = {
        "max": values.max(axis=0),
        "min": values.min(axis=0),
        "mean": values.mean(axis=0),
        "std": values.std(axis=0),
        "q01": np.quantile(values, 0.01, axis=0),
        "q99": np.quantile(values, 0.99, axis=0),
    }
    return Statistics(**{name: vector.tolist() for name, vector in numbers.items()})


def _covers(statistics: Statistics | None, width: int) -> bool:
    return statistics is not None and len(statistics.mean) >= width
