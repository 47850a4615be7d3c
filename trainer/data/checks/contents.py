"""The pass over all tables and videos of a dataset: every value the data config uses, every frame's time.

Videos are not decoded, but for the first and last frame of a few: their packets say when each frame is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainer.config.data_options import DataOptions, VideoAlignment
from trainer.data.checks.statistics import check_ranges
from trainer.data.configs import DataConfig
from trainer.data.dataset_meta import DatasetMeta, Episode
from trainer.data.episodes import EpisodeTable, examine_table, frames_of_rows, value_columns
from trainer.data.frames import remembered_index
from trainer.data.image_columns import ImageColumn, ImageReader
from trainer.data.memory import Memory
from trainer.data.meta_files import LINES_BYTES
from trainer.data.problem import Problem, shorten
from trainer.data.statistics import (
    Statistics,
    needed_columns,
    normalised_dimensions,
    read_statistics,
    statistics_of,
    usable,
)
from trainer.data.tables import as_matrix
from trainer.data.video import FrameIndex, VideoDecoder, open_video
from trainer.errors import DatasetError, PippaError

DECODED = 16
"""Videos per dataset whose first and last frame are decoded."""
_AGAIN = "Record or download the video again, or remove the episode from meta/episodes.jsonl."
_OTHER_RATE = 0.1


class Contents(NamedTuple):
    """What the pass found."""

    problems: list[Problem]
    warnings: list[Problem]
    statistics: dict[str, Statistics]
    """Of the columns the data config uses: those of ``meta/stats.json``, or computed where it has none to use."""


class _Column(NamedTuple):
    """One column in one episode."""

    low: np.ndarray
    high: np.ndarray
    values: np.ndarray | None
    """float32 ``[T, D]``, where statistics have to be computed."""


class _Seen(NamedTuple):
    """What an episode showed."""

    problems: list[Problem]
    warnings: list[Problem]
    columns: dict[str, _Column]


def check_contents(
    meta: DatasetMeta,
    config: DataConfig,
    *,
    options: DataOptions,
    memory: Memory,
    progress: Callable[[int, int], None],
) -> Contents:
    """Look at every table and video that ``config`` uses; ``progress(files done, of)``."""
    widths = needed_columns(meta, config)
    try:
        stored = {} if options.recompute_statistics else usable(read_statistics(meta), widths)
    except DatasetError:
        stored = {}  # reported with the metadata
    of = len(meta.episodes) * (1 + len(config.video))
    decoded = _sample(len(meta.episodes) * len(config.video), DECODED)
    seen: list[_Seen] = []

    def look(number: int) -> _Seen:
        chosen = [number * len(config.video) + view in decoded for view in range(len(config.video))]
        return _episode(
            meta, config, meta.episodes[number], options.video_alignment, set(widths) - set(stored), chosen, memory
        )

    with ThreadPoolExecutor(max_workers=8) as pool:
        try:
            for each in pool.map(look, range(len(meta.episodes))):
                seen.append(each)
                progress(len(seen) * (1 + len(config.video)), of)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    problems = [problem for each in seen for problem in each.problems]
    warnings = [warning for each in seen for warning in each.warnings]
    statistics = dict(stored)
    if not problems:
        problems += _same_widths(meta, seen)
    if not problems:
        for column in widths:
            parts = [each.columns[column] for each in seen]
            if column not in stored:
                statistics[column] = statistics_of([part.values for part in parts if part.values is not None])
                continue
            low, high = np.min([part.low for part in parts], axis=0), np.max([part.high for part in parts], axis=0)
            used = normalised_dimensions(meta, column, len(low), config)
            for serious, finding in check_ranges(
                meta.path / "meta/stats.json", column, stored[column], low, high, used
            ):
                (problems if serious else warnings).append(finding)
    return Contents(shorten(problems), shorten(warnings, keep=3), statistics)


def files_of(meta: DatasetMeta, config: DataConfig) -> list[Path]:
    """Every file that ``check_contents`` reads. Raises ``DatasetError`` where one is too large for it."""
    names = ("info.json", "modality.json", "episodes.jsonl", "tasks.jsonl", "stats.json")
    files = [file for name in names if (file := meta.path / "meta" / name).exists()]
    if large := [file for file in files if file.stat().st_size > LINES_BYTES]:
        raise DatasetError(f"{large[0]}: larger than any.", "Download the dataset again.")
    for episode in meta.episodes:
        files.append(meta.parquet_path(episode.episode_index))
        files += [meta.video_path(key, episode.episode_index) for key in config.video if not meta.in_tables(key)]
    return files


def _sample(count: int, size: int) -> set[int]:
    """At most ``size`` of ``count`` positions, evenly spread, first and last among them."""
    return {round(position) for position in np.linspace(0, count - 1, min(count, size))}


def _episode(
    meta: DatasetMeta,
    config: DataConfig,
    episode: Episode,
    alignment: VideoAlignment,
    computed: set[str],
    decoded: Sequence[bool],
    memory: Memory,
) -> _Seen:
    table, problems = examine_table(meta, config, episode, alignment)
    warnings: list[Problem] = []
    columns: dict[str, _Column] = {}
    file = meta.parquet_path(episode.episode_index)
    if table is not None:
        warnings += _odd_rows(meta, config, episode, table, file)
        for column in dict.fromkeys(column for column, _ in value_columns(meta, config).values()):
            values = as_matrix(table.columns[column])
            kept = values.astype(np.float32) if column in computed else None
            columns[column] = _Column(values.min(axis=0), values.max(axis=0), kept)
    for key, decode in zip(config.video, decoded, strict=True):
        try:
            found = list(
                _images(meta, key, episode)
                if meta.in_tables(key)
                else _video(meta, key, episode, table, alignment, decode, memory)
            )
        except PippaError as error:
            found = [(True, Problem.of(error))]
        problems += [finding for serious, finding in found if serious]
        warnings += [finding for serious, finding in found if not serious]
        if any(finding.message.startswith(str(file)) for serious, finding in found if serious):
            break  # the table's clock is wrong: the other cameras would say the same
    if not problems:
        memory.sha256(file)  # while it is in the page cache
    return _Seen(problems, warnings, columns)


def _odd_rows(
    meta: DatasetMeta, config: DataConfig, episode: Episode, table: EpisodeTable, file: Path
) -> list[Problem]:
    found = []
    if any(not text.strip() for text in table.texts):
        row = next(row for row, text in enumerate(table.texts) if not text.strip())
        found.append(
            Problem(
                f"{file}: the instruction is empty, first in row {row}",
                f"{config.language} comes from {meta.modality.column('annotation', config.keys('annotation')[0])!r}: "
                "write there, or into meta/tasks.jsonl, what the robot is to do.",
            )
        )
    number = table.columns.get("episode_index")
    if number is not None and np.issubdtype(number.dtype, np.number) and (number != episode.episode_index).any():
        found.append(
            Problem(
                f"{file}: its column episode_index says {number.reshape(-1)[0]:g}, its name {episode.episode_index}",
                "The name counts. See that the files were not mixed up.",
            )
        )
    return found


def _images(meta: DatasetMeta, key: str, episode: Episode) -> list[tuple[bool, Problem]]:
    """The first and the last image of a camera whose images are in the table, and that there is one in each row."""
    reader = ImageReader(ImageColumn(meta.parquet_path(episode.episode_index), meta.modality.column("video", key)))
    try:
        width, height = meta.camera(key).resolution
        for row in range(len(reader)):
            if row in (0, len(reader) - 1):
                shape = reader.frame(row).shape
                if shape[:2] != (height, width):
                    return [_other_size(str(reader.source), (shape[1], shape[0]), (width, height))]
            else:
                reader.content(row)
    finally:
        reader.close()
    return []


def _video(
    meta: DatasetMeta,
    key: str,
    episode: Episode,
    table: EpisodeTable | None,
    alignment: VideoAlignment,
    decode: bool,
    memory: Memory,
) -> list[tuple[bool, Problem]]:
    video = meta.video_path(key, episode.episode_index)
    if video.is_file() and video.stat().st_size == 0:
        return [(True, Problem(f"{video}: empty", _AGAIN))]
    index = remembered_index(video, memory)
    found: list[tuple[bool, Problem]] = []
    camera = meta.camera(key)
    if (index.width, index.height) != camera.resolution:
        found.append(_other_size(str(video), (index.width, index.height), camera.resolution))
    if table is not None:
        frames = frames_of_rows(meta, key, episode, table, index, alignment)
        if isinstance(frames, Problem):
            found.append((True, frames))
        else:
            found += _rate(meta, key, index)
    if decode and not found:
        found += _decoded(video, index)
    return found


def _other_size(what: str, size: tuple[int, int], announced: tuple[int, int]) -> tuple[bool, Problem]:
    return True, Problem(
        f"{what}: {size[0]}x{size[1]} pixels; meta/info.json says {announced[0]}x{announced[1]}",
        "Correct the shape in meta/info.json (height, width, channels), or re-encode the video.",
    )


def _rate(meta: DatasetMeta, key: str, index: FrameIndex) -> list[tuple[bool, Problem]]:
    """Whether a camera's own rate in info.json is the video's. Frames are found by their times, whatever it says."""
    name = meta.modality.column("video", key)
    feature = meta.info.feature(name)
    said = feature.details.get("video.fps") if feature else None
    if said is None or len(index.starts) < 2:
        return []
    rate = 1 / float(np.median(np.diff(index.starts)))
    if abs(rate / float(said) - 1) <= _OTHER_RATE:
        return []
    return [
        (
            False,
            Problem(
                f"{meta.path / 'meta/info.json'}: video.fps of {name!r} is {float(said):g}, and its videos run at "
                f"{rate:.4g}",
                "Frames are found by their times in the videos. Correct the rate.",
            ),
        )
    ]


def _decoded(video: Path, index: FrameIndex) -> list[tuple[bool, Problem]]:
    decoder = VideoDecoder(video, index)
    try:
        for position in (0, len(index.pts) - 1):
            decoder.frame(position)
    except PippaError as error:
        return [(True, Problem(error.message.rstrip("."), _AGAIN))]
    finally:
        decoder.close()
    with open_video(video) as container:
        turned = next(container.decode(video=0)).rotation
    if not turned:
        return []
    return [
        (
            False,
            Problem(
                f"{video}: marked to be shown turned by {abs(turned)} degrees",
                "Frames are used as they are stored, not turned, as the robot's camera gives them. If players show the "
                "right picture, re-encode the videos.",
            ),
        )
    ]


def _same_widths(meta: DatasetMeta, seen: Sequence[_Seen]) -> list[Problem]:
    """Columns of other dimensions than in the first episode, where info.json doesn't say how many they have."""
    found = []
    for episode, each in zip(meta.episodes, seen, strict=True):
        for column, about in each.columns.items():
            first = len(seen[0].columns[column].low)
            if len(about.low) != first:
                found.append(
                    Problem(
                        f"{meta.parquet_path(episode.episode_index)}: {column!r} has {len(about.low)} dimensions, "
                        f"{first} in the first episode",
                        "Record the episodes with one robot, or remove those of another from meta/episodes.jsonl.",
                    )
                )
    return found
