"""The pass over all tables and videos of a dataset: every value the data config uses, every frame's time.

Videos are not decoded, but for the first and last frame of a few: their packets say when each frame is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainer.config.data_options import DataOptions
from trainer.data.checks.clips import overlaps
from trainer.data.checks.episode import ColumnSeen, EpisodeCheck, EpisodeSeen
from trainer.data.checks.statistics import RangesCompared, compare_ranges
from trainer.data.configs import DataConfig
from trainer.data.dataset_meta import DatasetMeta
from trainer.data.frame_indices import FrameIndices
from trainer.data.image_columns import ImageGroups
from trainer.data.layout_v3 import LayoutV3
from trainer.data.meta_files import LINES_BYTES
from trainer.data.problem import Problem, shorten
from trainer.data.result_cache import ResultCache
from trainer.data.statistics import (
    Statistics,
    needed_columns,
    normalised_dimensions,
    read_statistics,
    statistics_of,
    usable,
)
from trainer.errors import DatasetError

SHARED_KEPT = 3
"""Files of each camera, in LeRobot v3, whose frames are known while their episodes are looked at."""
DECODED = 16
"""Videos per dataset whose first and last frame are decoded."""


class Contents(NamedTuple):
    """What the pass found."""

    problems: list[Problem]
    warnings: list[Problem]
    statistics: dict[str, Statistics]
    """Of the columns the data config uses: those of ``meta/stats.json``, or computed where it has none to use."""
    damaged: list[int] = []  # noqa: RUF012 - never changed
    """The episodes without which there would be no problem, where they are not most of the dataset."""


def check_contents(
    meta: DatasetMeta,
    config: DataConfig,
    *,
    options: DataOptions,
    memory: ResultCache,
    progress: Callable[[int, int], None],
) -> Contents:
    """Look at every table and video that ``config`` uses; ``progress(files done, of)``."""
    widths = needed_columns(meta, config)
    try:
        stored = {} if options.computes_statistics else usable(read_statistics(meta), widths)
    except DatasetError:
        stored = {}  # reported with the metadata
    check = EpisodeCheck(
        meta,
        config,
        options.video_alignment,
        set(widths) - set(stored),
        memory,
        FrameIndices(memory, keep=SHARED_KEPT * max(len(config.video), 1)),
        ImageGroups(),
    )
    seen = _look(check, meta, config, progress)
    of_episodes = [
        (each.episode_index, problem)
        for each, found in zip(meta.episodes, seen, strict=True)
        for problem in found.problems
    ]
    of_all = list(overlaps(meta, seen))
    warnings = [warning for each in seen for warning in each.warnings]
    statistics = dict(stored)
    if not of_episodes + of_all:
        of_episodes = list(_same_widths(meta, seen))
    if not of_episodes + of_all:
        for column in widths:
            parts = [each.columns[column] for each in seen]
            if column not in stored:
                statistics[column] = statistics_of([part.values for part in parts if part.values is not None])
                continue
            found = _compare_statistics(meta, config, column, stored[column], parts)
            (of_all if found.beyond else warnings).extend(found.problems)
    problems = [problem for _, problem in of_episodes] + of_all
    damaged = sorted({episode for episode, _ in of_episodes}) if not of_all else []
    if 2 * len(damaged) > len(meta.episodes):
        damaged = []
    return Contents(shorten(problems), shorten(warnings, keep=3), statistics, damaged)


def _look(
    check: EpisodeCheck, meta: DatasetMeta, config: DataConfig, progress: Callable[[int, int], None]
) -> list[EpisodeSeen]:
    """Every episode, several at once."""
    views, count = len(config.video), len(meta.episodes)
    decoded = _sample(count * views, DECODED)
    seen: list[EpisodeSeen] = []

    def look(number: int) -> EpisodeSeen:
        return check.look(meta.episodes[number], [number * views + view in decoded for view in range(views)])

    with ThreadPoolExecutor(max_workers=8) as pool:
        try:
            for each in pool.map(look, range(count)):
                seen.append(each)
                progress(len(seen) * (1 + views), count * (1 + views))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return seen


def files_of(meta: DatasetMeta, config: DataConfig) -> list[Path]:
    """Every file that ``check_contents`` reads. Raises ``DatasetError`` where one is too large for it."""
    names = ["meta/info.json", "meta/modality.json", "meta/stats.json", meta.layout.EPISODES, meta.layout.TASKS]
    files = [file for name in names if (file := meta.path / name).is_file()]
    files += sorted((meta.path / "meta").glob("episodes/*/*.parquet")) if isinstance(meta.layout, LayoutV3) else []
    if large := [file for file in files if file.stat().st_size > LINES_BYTES]:
        raise DatasetError(f"{large[0]}: larger than any.", "Download the dataset again.")
    for episode in meta.episodes:
        number = episode.episode_index
        files += [run.file for run in meta.rows(number).runs]
        files += [meta.video_path(key, number) for key in config.video if not meta.in_tables(key)]
    return list(dict.fromkeys(files))


def _sample(count: int, size: int) -> set[int]:
    """At most ``size`` of ``count`` positions, evenly spread, first and last among them."""
    return {round(position) for position in np.linspace(0, count - 1, min(count, size))}


def _compare_statistics(
    meta: DatasetMeta, config: DataConfig, column: str, stored: Statistics, parts: Sequence[ColumnSeen]
) -> RangesCompared:
    low, high = np.min([part.low for part in parts], axis=0), np.max([part.high for part in parts], axis=0)
    used = normalised_dimensions(meta, column, len(low), config)
    file = meta.path / "meta/stats.json"
    return compare_ranges(file, column, stored, low, high, used, _names(meta, column, len(low)))


def _names(meta: DatasetMeta, column: str, width: int) -> list[str] | None:
    """The joints' names, where info.json has one for each dimension."""
    try:
        feature = meta.info.feature(column)
    except ValueError:
        return None
    names = feature.names if feature else None
    if isinstance(names, list) and len(names) == width and all(isinstance(name, str) for name in names):
        return names
    return None


def _same_widths(meta: DatasetMeta, seen: Sequence[EpisodeSeen]) -> Iterator[tuple[int, Problem]]:
    """Episodes with a column of other dimensions than in the first one, where info.json doesn't say how many it has."""
    for episode, each in zip(meta.episodes, seen, strict=True):
        for column, about in each.columns.items():
            first = len(seen[0].columns[column].low)
            if len(about.low) != first:
                yield (
                    episode.episode_index,
                    Problem(
                        f"{meta.where(episode.episode_index)}: {column!r} has {len(about.low)} dimensions, "
                        f"{first} in the first episode",
                        f"Record the episodes with one robot, or {meta.layout.REMOVE}.",
                    ),
                )
