"""Checks the parquet tables: all of them for presence and length, a sample for their values."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from trainer.data.checks.problem import Problem
from trainer.data.configs import DataConfig
from trainer.data.dataset_meta import DatasetMeta, Episode
from trainer.data.statistics import needed_columns
from trainer.errors import PippaError

VALUES_READ = 500
"""Episodes whose values are read; of the others only row counts are."""


def check_tables(meta: DatasetMeta, config: DataConfig) -> Iterator[Problem]:
    """Problems of the tables, in the order of the episodes."""
    chosen = set(sample(len(meta.episodes), VALUES_READ))

    def check(position: int) -> list[Problem]:
        try:
            return list(_check_table(meta, config, meta.episodes[position], values=position in chosen))
        except PippaError as error:
            return [Problem.of(error)]

    with ThreadPoolExecutor(max_workers=8) as pool:
        for problems in pool.map(check, range(len(meta.episodes))):
            yield from problems


def sample(count: int, size: int) -> list[int]:
    """At most ``size`` of ``count`` positions, evenly spread, first and last among them."""
    return sorted({round(position) for position in np.linspace(0, count - 1, min(count, size))})


def _check_table(meta: DatasetMeta, config: DataConfig, episode: Episode, values: bool) -> Iterator[Problem]:
    from trainer.data.tables import read_columns, row_count

    file = meta.parquet_path(episode.episode_index)
    rows = row_count(file)
    if rows != episode.length:
        yield Problem(
            f"{file}: {rows} rows; meta/episodes.jsonl says {episode.length}",
            "Correct the length in meta/episodes.jsonl, or download the episode again.",
        )
    if not values or rows == 0:
        return
    widths = needed_columns(meta)
    annotations = [key for key in config.keys("annotation") if key in meta.modality.annotation]
    labels = [meta.modality.column("annotation", key) for key in annotations]
    columns = read_columns(file, [*widths, "timestamp", *labels])
    for column, least in widths.items():
        array = columns[column]
        if not np.issubdtype(array.dtype, np.number) and array.dtype != np.bool_:
            yield Problem(f"{file}: {column!r} holds {array.dtype}, not numbers", "Correct original_key.")
            continue
        width = array.shape[1] if array.ndim == 2 else 1
        announced = meta.info.features.get(column, {}).get("shape")
        if announced and int(np.prod(announced)) != width:
            yield Problem(
                f"{file}: {column!r} has {width} dimensions; meta/info.json says {int(np.prod(announced))}",
                "Correct the shape in meta/info.json and the slices in meta/modality.json.",
            )
        elif width < least:
            yield Problem(
                f"{file}: {column!r} has {width} dimensions; meta/modality.json slices it up to {least}",
                "Correct start and end in meta/modality.json.",
            )
        bad = np.flatnonzero(~np.isfinite(array.astype(np.float64)).reshape(rows, -1).all(axis=1))
        if len(bad):
            yield Problem(
                f"{file}: NaN or infinite values in {column!r}, first in row {bad[0]}",
                "Remove the episode from meta/episodes.jsonl, or record it again.",
            )
    yield from _check_timestamps(columns["timestamp"].reshape(-1), str(file))
    for label in labels:
        for task in np.unique(columns[label]).tolist():
            if not isinstance(task, str) and task not in meta.tasks:
                yield Problem(f"{file}: {label} names task {task}", "Add it to meta/tasks.jsonl.")


def _check_timestamps(timestamps: np.ndarray, file: str) -> Iterator[Problem]:
    seconds = timestamps.astype(np.float64)
    if not np.isfinite(seconds).all() or (np.diff(seconds) <= 0).any():
        yield Problem(
            f"{file}: timestamps don't increase from row to row",
            "They are seconds since the episode's start, index / fps: write them again.",
        )
