"""One episode of a dataset: its table, read and looked at in one go, and the frames its rows mean.

The check and the training read tables and pair frames by these two functions, so that what one accepts the other takes
and neither is more trusting.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from trainer.config.data_options import VideoAlignment
from trainer.data.alignment import Misaligned, align
from trainer.data.clips import ClipIndex
from trainer.data.configs import DataConfig
from trainer.data.dataset_meta import DatasetMeta, Episode, StateActionEntry
from trainer.data.problem import Problem
from trainer.data.tables import as_matrix
from trainer.data.video import FrameIndex
from trainer.errors import DatasetError

CLOCK = "timestamp"
_SECONDS = "They are seconds since the episode's start, index / fps: write them again."


class EpisodeTable(NamedTuple):
    """The columns of one episode, raw. T steps."""

    state: dict[str, np.ndarray]
    """``state.<key>``: float64 ``[T, D]``."""
    action: dict[str, np.ndarray]
    timestamps: np.ndarray | None
    """Seconds ``[T]``, in the precision they are stored in; None where there are none and none are needed."""
    texts: list[str]
    """The instruction at each step."""
    columns: dict[str, np.ndarray]
    """The whole columns that states and actions are slices of, ``[T, D]``, as stored; and ``episode_index``."""


def value_columns(meta: DatasetMeta, config: DataConfig) -> dict[str, tuple[str, StateActionEntry]]:
    """For each state and action key of ``config``, by its full name: the column it comes from, and where in it."""
    return {
        f"{kind}.{key}": (meta.modality.column(kind, key), getattr(meta.modality, kind)[key])
        for kind in ("state", "action")
        for key in config.keys(kind)
    }


def needs_clock(meta: DatasetMeta, config: DataConfig, alignment: VideoAlignment) -> bool:
    """Whether frames are found by the rows' timestamps."""
    return alignment == "timestamp" and not all(meta.in_tables(key) for key in config.video)


def examine_table(
    meta: DatasetMeta, config: DataConfig, episode: Episode, alignment: VideoAlignment
) -> tuple[EpisodeTable | None, list[Problem]]:
    """Read what ``config`` uses of an episode's table, and all that is wrong with it.

    The table is None where too much is wrong to say what a row holds. Raises nothing.
    """
    file = meta.where(episode.episode_index)
    sources = value_columns(meta, config)
    label = config.instruction_column(meta.modality)
    clock = needs_clock(meta, config, alignment)
    needed = [*(column for column, _ in sources.values()), label, *([CLOCK] if clock else [])]
    try:
        columns = meta.columns(episode.episode_index, needed, ("episode_index", *([] if clock else [CLOCK])))
    except DatasetError as error:
        if clock and f"no column {CLOCK!r}" in error.message:
            cure = "Write it, index / fps; or pair rows and frames by number: --video-alignment index."
            return None, [Problem(error.message.rstrip("."), cure)]
        return None, [Problem.of(error)]
    rows = len(columns[label])
    problems: list[Problem] = []
    if rows != episode.length:
        problems.append(
            Problem(
                f"{file}: {rows} rows; {meta.layout.EPISODES} says {episode.length}",
                f"Correct the length in {meta.layout.EPISODES}, or download the episode again.",
            )
        )
    if rows == 0:
        return None, problems
    broken = list(_check_widths(meta, file, sources, columns))
    if broken:
        return None, problems + broken
    values = {name: as_matrix(columns[column])[:, entry.start : entry.end] for name, (column, entry) in sources.items()}
    problems += _check_values(meta, file, sources, values)
    try:
        texts = _instructions(meta, columns[label].reshape(-1), label, file, rows)
    except DatasetError as error:
        problems.append(Problem.of(error))
        texts = [""] * rows
    times = columns.get(CLOCK)
    if clock and (wrong := _check_clock(columns[CLOCK], file)):
        return None, [*problems, wrong]
    table = EpisodeTable(
        state={name: value for name, value in values.items() if name.startswith("state.")},
        action={name: value for name, value in values.items() if name.startswith("action.")},
        timestamps=None if times is None else times.reshape(-1),
        texts=texts,
        columns={name: columns[name] for name in columns if name not in (CLOCK, label)},
    )
    return (table if rows == episode.length else None), problems


def frames_of_rows(
    meta: DatasetMeta,
    key: str,
    episode: Episode,
    table: EpisodeTable,
    index: FrameIndex | ClipIndex | None,
    alignment: VideoAlignment,
) -> np.ndarray | Problem:
    """The frame each row means in camera ``key``, positions ``[T]``, or what contradicts the video.

    ``index`` is the video's; None for images in the table, which are the rows' own.
    """
    rows = len(table.texts)
    if index is None:
        return np.arange(rows)
    video = meta.video(key, episode.episode_index)
    times = table.timestamps
    if times is None or not np.issubdtype(times.dtype, np.number):
        if len(index.starts) == rows:
            return np.arange(rows)
        return Problem(
            f"{video}: {len(index.starts)} frames for {rows} rows, which have no {CLOCK} to tell which",
            "Write the column timestamp, seconds since the episode's start.",
        )
    found = align(times, index, meta.camera(key).fps, alignment)
    return _contradiction(meta, key, episode, found, rows, index) if isinstance(found, Misaligned) else found


def _contradiction(
    meta: DatasetMeta, key: str, episode: Episode, found: Misaligned, rows: int, index: FrameIndex | ClipIndex
) -> Problem:
    video, frames = meta.video(key, episode.episode_index), len(index.starts)
    if frames < rows and found.row >= frames - 1:
        return Problem(
            f"{video}: {frames} frames; {meta.layout.EPISODES} says {rows} steps, and row {found.row} at "
            f"{found.time:.3f} s comes after the last frame, at {index.starts[-1]:.3f} s",
            f"Record or download the video again, or {meta.layout.REMOVE}: every step needs its frame.",
        )
    file = meta.parquet_path(episode.episode_index)
    message = (
        f"{file}: row {found.row} of episode {episode.episode_index} is at {found.time:.3f} s, but frame {found.frame} "
        f"of {str(video).removeprefix(f'{meta.path}/')} is at {found.start:.3f} s: {found.cause}"
    )
    cure = (
        "Write the timestamps again as row / fps, in seconds since the episode's start, or re-encode the video at the "
        "dataset's frame rate (`ffmpeg -i in.mp4 -vf setpts=PTS-STARTPTS,fps=FPS out.mp4`)."
    )
    if found.by_index:
        cure += (
            " There are as many frames as rows: if row k was recorded with frame k and only the clock is wrong, add "
            "--video-alignment index."
        )
    return Problem(message, cure)


def _check_widths(
    meta: DatasetMeta,
    file: str,
    sources: dict[str, tuple[str, StateActionEntry]],
    columns: dict[str, np.ndarray],
) -> Iterator[Problem]:
    least: dict[str, int] = {}
    for column, entry in sources.values():
        least[column] = max(least.get(column, 0), entry.end)
    for column, end in least.items():
        array = columns[column]
        if not np.issubdtype(array.dtype, np.number) and array.dtype != np.bool_:
            yield Problem(f"{file}: {column!r} holds text, not numbers", "Correct original_key in meta/modality.json.")
            continue
        width = array.shape[1] if array.ndim == 2 else 1
        try:
            feature = meta.info.feature(column)
            announced = feature.width if feature else None
        except ValueError:
            continue  # reported with the metadata
        if announced and announced != width:
            yield Problem(
                f"{file}: {column!r} has {width} dimensions; meta/info.json says {announced}",
                "Correct the shape in meta/info.json and the slices in meta/modality.json.",
            )
        elif width < end:
            yield Problem(
                f"{file}: {column!r} has {width} dimensions; meta/modality.json slices it up to {end}",
                "Correct start and end in meta/modality.json.",
            )


def _check_values(
    meta: DatasetMeta, file: str, sources: dict[str, tuple[str, StateActionEntry]], values: dict[str, np.ndarray]
) -> Iterator[Problem]:
    cure = f"{meta.layout.REMOVE.capitalize()}, or record it again."
    for name, (column, _) in sources.items():
        bad = np.flatnonzero(~np.isfinite(values[name]).all(axis=1))
        if len(bad):
            yield Problem(f"{file}: NaN or infinite values in {column!r}, first in row {bad[0]} of {name}", cure)


def _check_clock(times: np.ndarray, file: str) -> Problem | None:
    if not np.issubdtype(times.dtype, np.number) or times.size != len(times):
        return Problem(f"{file}: {CLOCK!r} holds no numbers, or more than one a row", _SECONDS)
    seconds = times.reshape(-1).astype(np.float64)
    if (bad := np.flatnonzero(~np.isfinite(seconds))).size:
        return Problem(f"{file}: timestamps don't increase from row to row: none in row {bad[0]}", _SECONDS)
    if (back := np.flatnonzero(np.diff(seconds) <= 0)).size:
        row = int(back[0]) + 1
        return Problem(
            f"{file}: timestamps don't increase from row to row: {seconds[row]:.3f} s in row {row}, "
            f"{seconds[row - 1]:.3f} s before it",
            _SECONDS,
        )
    return None


def _instructions(meta: DatasetMeta, labels: np.ndarray, column: str, file: str, rows: int) -> list[str]:
    """The instruction of each row, from text or from task numbers. Raises ``DatasetError``."""
    if labels.size != rows:
        raise DatasetError(
            f"{file}: {column!r}, where the instruction comes from, holds more than one value a row.",
            "Correct original_key of the annotation in meta/modality.json.",
        )
    numbers = labels.dtype != object
    absent = np.isnan(labels.astype(np.float64)) if numbers else np.array([value is None for value in labels], bool)
    if absent.any():
        raise DatasetError(
            f"{file}: {column!r}, where the instruction comes from, is empty in row {int(absent.argmax())}.",
            f"Write the instruction, or its number in {meta.layout.TASKS}, into every row.",
        )
    if not numbers:
        return labels.tolist()
    if meta.no_tasks is not None:
        raise meta.no_tasks
    tasks, places = np.unique(labels, return_inverse=True)
    texts = []
    for task in tasks.tolist():
        if isinstance(task, bool) or not float(task).is_integer():
            raise DatasetError(
                f"{file}: {column} holds {task!r}, neither text nor the number of a task.",
                "Correct original_key of the annotation in meta/modality.json.",
            )
        if int(task) not in meta.tasks:
            raise DatasetError(f"{file}: {column} names task {int(task)}.", f"Add it to {meta.layout.TASKS}.")
        texts.append(meta.tasks[int(task)])
    return [texts[place] for place in places]
