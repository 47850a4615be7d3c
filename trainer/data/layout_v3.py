"""From LeRobot's v3 layout, many episodes in a file, to v2.1, one file per episode, which GR00T N1.5 reads.

Nothing is lost: table rows are the same, and every frame decodes to the same pixels. Where an episode begins at a key
frame, as LeRobot writes them, its video is cut out as it is encoded (``video_cut``).

Upstream: ``lerobot/datasets/v30/convert_dataset_v21_to_v30.py`` does the opposite.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, field_validator

from trainer.data.meta_files import Positive, Whole, read_document, read_text
from trainer.data.paths import checked_template
from trainer.data.tables import opened_table, require_readable
from trainer.errors import DatasetError

DATA_PATH = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO_PATH = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
_MOST_ROWS = 10_000_000
"""Of a file with many episodes."""
_AGAIN = "Download the dataset again, or take its v2.1 revision where it has one (OWNER/NAME@v2.1)."


class InfoV3(BaseModel):
    """The fields of a v3 ``meta/info.json`` that are read; the others are kept."""

    model_config = ConfigDict(extra="allow")

    codebase_version: str
    data_path: str = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    video_path: str | None = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    chunks_size: Annotated[Whole, Field(ge=1)] = 1000
    fps: Positive
    features: dict[str, Any]

    @field_validator("data_path", "video_path")
    @classmethod
    def _can_be_filled_in(cls, template: str | None) -> str | None:
        return template and checked_template(template, ("chunk_index", "file_index", "video_key"), "file_index")

    @field_validator("features")
    @classmethod
    def _are_names_of_files(cls, features: dict[str, Any]) -> dict[str, Any]:
        """A camera's videos lie in a folder of its name, here as in the layout it is converted to."""
        for name in _videos(features):
            if "/" in name or name in (".", "..") or not name.isprintable():
                raise ValueError(f"{name[:200]!r} can't be the name of a camera")
        return features

    @property
    def cameras(self) -> list[str]:
        """The features that are videos."""
        return _videos(self.features)


def _videos(features: dict[str, Any]) -> list[str]:
    return [name for name, about in features.items() if isinstance(about, dict) and about.get("dtype") == "video"]


class VideoPart(NamedTuple):
    """Where the video of one camera in one episode lies."""

    chunk: int
    file: int
    start: float
    """Seconds from the beginning of the file."""


@dataclass(frozen=True)
class EpisodeV3:
    """One row of ``meta/episodes``."""

    index: int
    length: int
    tasks: list[str]
    data: tuple[int, int] | None
    """Chunk and file of its rows, where that is said. It may be stale: the rows say whose they are."""
    videos: dict[str, VideoPart | str]
    """By camera; where it can't be meant, what is wrong."""


def is_v3(folder: Path) -> str | None:
    """The version, such as ``v3.0``, when the dataset in ``folder`` has the v3 layout. Raises ``DatasetError``."""
    try:
        version = json.loads(read_text(folder / "meta/info.json")).get("codebase_version")
    except (ValueError, RecursionError, AttributeError):
        return None  # the check says what is wrong with it
    return version if isinstance(version, str) and version.startswith("v3") else None


def convert_to_v21(
    folder: Path, into: Path, used: Collection[str] | None = None, left_out: Callable[[str], None] = lambda _: None
) -> Path:
    """Write the v3 dataset in ``folder`` as v2.1 into the new folder ``into``; returns it.

    Statistics are left out: they are computed from the data when they are missing. So is a camera that can't be
    converted and is not in ``used`` (by default all are), which ``left_out`` is told. Raises ``DatasetError`` for the
    first other thing that is missing, damaged or contradictory.
    """
    info = _info(folder)
    episodes = load_episodes_v3(folder, info)
    tasks = load_tasks_v3(folder)
    (into / "meta").mkdir(parents=True)
    _convert_tables(folder, into, info, [episode for episode in episodes if episode.length])
    for camera in info.cameras:
        try:
            _convert_videos(folder, into, info, [episode for episode in episodes if episode.length], camera)
        except DatasetError as error:
            if used is None or camera in used:
                raise
            left_out(f"The camera {camera}, which the data config does not use, is left out: {error.message}")
            del info.features[camera]
            for videos in (into / "videos").glob(f"*/{camera}"):
                shutil.rmtree(videos)
    lines = [{"episode_index": each.index, "tasks": each.tasks, "length": each.length} for each in episodes]
    _write_lines(into / "meta/episodes.jsonl", lines)
    _write_lines(into / "meta/tasks.jsonl", [{"task_index": index, "task": task} for index, task in tasks.items()])
    (into / "meta/info.json").write_text(json.dumps(_info_v21(info, episodes), indent=4), encoding="utf-8")
    for name in ("meta/modality.json", "README.md"):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, into / name)
    return into


def load_episodes_v3(folder: Path, info: InfoV3) -> list[EpisodeV3]:
    """The rows of ``meta/episodes``, by index. Raises ``DatasetError``."""
    files = sorted((folder / "meta/episodes").glob("*/*.parquet"))
    if not files:
        raise DatasetError(f"{folder / 'meta/episodes'}: no parquet files, as LeRobot v3 has them.", _AGAIN)
    episodes = [episode for file in files for episode in _episodes_in(file, info)]
    episodes.sort(key=lambda episode: episode.index)
    indices = [episode.index for episode in episodes]
    if twice := [one for one, following in pairwise(indices) if one == following]:
        raise DatasetError(f"{folder / 'meta/episodes'}: episode_index {twice[0]} occurs twice.", _AGAIN)
    return episodes


def load_tasks_v3(folder: Path) -> dict[int, str]:
    """Task index to instruction, from ``meta/tasks.parquet``. Raises ``DatasetError``.

    LeRobot writes the table of a data frame whose index is the instruction: the column is called ``task`` or, where
    the index has no name, ``__index_level_0__``.
    """
    file = folder / "meta/tasks.parquet"
    rows = _rows(file)
    found = {}
    for row in rows:
        task = next((row[name] for name in ("task", "__index_level_0__") if isinstance(row.get(name), str)), None)
        if task is None or not isinstance(row.get("task_index"), int):
            raise DatasetError(f"{file}: a row without task and task_index; it has {', '.join(row)}.", _AGAIN)
        found[row["task_index"]] = task
    return dict(sorted(found.items()))


def _info(folder: Path) -> InfoV3:
    return read_document(folder / "meta/info.json", InfoV3, _AGAIN)


def _info_v21(info: InfoV3, episodes: list[EpisodeV3]) -> dict[str, Any]:
    document = info.model_dump()
    for name in ("data_files_size_in_mb", "video_files_size_in_mb"):
        document.pop(name, None)
    for feature in document["features"].values():
        if isinstance(feature, dict) and feature.get("dtype") != "video":
            feature.pop("fps", None)
    return document | {
        "codebase_version": "v2.1",
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if info.cameras else None,
        "total_episodes": len(episodes),
        "total_frames": sum(episode.length for episode in episodes),
        "total_chunks": max((episode.index for episode in episodes), default=-1) // info.chunks_size + 1,
        "total_videos": sum(len(episode.videos) for episode in episodes),
    }


def _episodes_in(file: Path, info: InfoV3) -> Iterator[EpisodeV3]:
    for row in _rows(file):
        try:
            videos = {
                camera: _video_part(row, camera)
                for camera in info.cameras
                # A camera may be described and never recorded, as in Isaac-GR00T's demo data.
                if any(f"videos/{camera}/{name}" in row for name in _PLACE)
            }
            tasks = row.get("tasks")
            chunk, number = row.get("data/chunk_index"), row.get("data/file_index")
            episode = EpisodeV3(
                index=int(row["episode_index"]),
                length=int(row["length"]),
                tasks=[tasks] if isinstance(tasks, str) else [str(task) for task in tasks or ()],
                data=(chunk, number) if isinstance(chunk, int) and isinstance(number, int) else None,
                videos=videos,
            )
        except KeyError as error:
            raise DatasetError(f"{file}: no column {error}, which LeRobot v3 has.", _AGAIN) from None
        except (TypeError, ValueError, OverflowError) as error:
            raise DatasetError(f"{file}: a row that can't be meant ({error}).", _AGAIN) from None
        if episode.index < 0 or episode.length < 0:
            raise DatasetError(f"{file}: episode {episode.index} has length {episode.length}.", _AGAIN)
        yield episode


_PLACE = ("chunk_index", "file_index", "from_timestamp")


def _video_part(row: dict[str, Any], camera: str) -> VideoPart | str:
    try:
        chunk, file, start = (row[f"videos/{camera}/{name}"] for name in _PLACE)
        part = VideoPart(int(chunk), int(file), float(start))
    except KeyError as error:
        return f"no column {error}, which LeRobot v3 has"
    except (TypeError, ValueError, OverflowError) as error:
        return f"a row that can't be meant ({error})"
    return part if math.isfinite(part.start) else "a row that can't be meant (from_timestamp is no number)"


def _rows(file: Path) -> list[dict[str, Any]]:
    """A metadata table, without the statistics that make it large."""
    with _of_v3(), opened_table(file) as table:
        names = [name for name in table.schema_arrow.names if not name.startswith("stats/")]
        require_readable(file, table, names)
        return table.read(columns=names).to_pylist()


@contextmanager
def _of_v3() -> Iterator[None]:
    """What is wrong with a table, with the cure for a dataset of this layout."""
    try:
        yield
    except DatasetError as error:
        raise DatasetError(error.message, _AGAIN) from error


def _convert_tables(folder: Path, into: Path, info: InfoV3, episodes: list[EpisodeV3]) -> None:
    """Write a table for each episode, with the rows that say they are its own, wherever they are."""
    by_file: dict[Path | None, list[EpisodeV3]] = defaultdict(list)
    for episode in episodes:
        place = None if episode.data is None else dict(zip(("chunk_index", "file_index"), episode.data, strict=True))
        by_file[None if place is None else folder / info.data_path.format(**place)].append(episode)
    lost: list[tuple[EpisodeV3, DatasetError]] = []
    for file, members in by_file.items():
        try:
            if file is None:
                raise DatasetError(f"{folder / 'meta/episodes'}: no column data/file_index.", _AGAIN)
            rows = _RowsOf(file)
        except DatasetError as error:
            lost += [(episode, error) for episode in members]
            continue
        for episode in members:
            try:
                _write_rows(into, info, episode, [rows])
            except DatasetError as error:
                lost.append((episode, error))
    if not lost:
        return
    # The index is stale or not there: LeRobot's own look-ups go by the rows' episode_index.
    root = folder / Path(info.data_path.partition("{")[0]).parent
    everywhere = []
    for file in sorted(root.rglob("*.parquet")):
        with suppress(DatasetError):
            everywhere.append(_RowsOf(file, lazily=True))
    for episode, error in lost:
        holders = [rows for rows in everywhere if rows.has(episode.index)]
        if not holders:
            raise error
        _write_rows(into, info, episode, holders)


class _RowsOf:
    """The rows of a data file, by episode."""

    def __init__(self, file: Path, *, lazily: bool = False) -> None:
        """``lazily`` reads only whose rows there are. Raises ``DatasetError``."""
        self.file = file
        self._whole = None if lazily else self._read(None)
        column = (self._whole or self._read(["episode_index"])).column("episode_index").to_numpy()
        # By owner, so that each episode's rows are found without looking at all others.
        self._order = np.argsort(column, kind="stable")
        self._owners = column[self._order]

    def has(self, episode: int) -> bool:
        first, end = self._range(episode)
        return end > first

    def of(self, episode: int) -> pa.Table:
        """The rows of an episode, in the order of the file."""
        if self._whole is None:
            self._whole = self._read(None)
        first, end = self._range(episode)
        return self._whole.take(self._order[first:end])

    def _range(self, episode: int) -> tuple[int, int]:
        first, end = np.searchsorted(self._owners, [episode, episode + 1])
        return int(first), int(end)

    def _read(self, columns: list[str] | None) -> pa.Table:
        with _of_v3(), opened_table(self.file) as table:
            names = table.schema_arrow.names
            if "episode_index" not in names:
                raise DatasetError(f"{self.file}: no column episode_index.")
            require_readable(self.file, table, columns or names, most_rows=_MOST_ROWS)
            return table.read(columns=columns)


def _write_rows(into: Path, info: InfoV3, episode: EpisodeV3, holders: list[_RowsOf]) -> None:
    rows = pa.concat_tables([each.of(episode.index) for each in holders])
    if rows.num_rows != episode.length:
        files = ", ".join(str(each.file) for each in holders)
        raise DatasetError(
            f"{files}: {rows.num_rows} rows of episode {episode.index}; meta/episodes says {episode.length}.", _AGAIN
        )
    target = into / DATA_PATH.format(episode_chunk=episode.index // info.chunks_size, episode_index=episode.index)
    target.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows.combine_chunks(), target)


def _convert_videos(folder: Path, into: Path, info: InfoV3, episodes: list[EpisodeV3], camera: str) -> None:
    from trainer.data.video_cut import Part, cut

    if info.video_path is None:
        raise DatasetError(f"{folder / 'meta/info.json'}: no video_path, but the camera {camera}.", _AGAIN)
    by_file: dict[tuple[int, int], list[tuple[EpisodeV3, VideoPart]]] = defaultdict(list)
    for episode in episodes:
        part = episode.videos.get(camera)
        if isinstance(part, str):
            raise DatasetError(
                f"{folder / 'meta/episodes'}: the place of camera {camera} in episode {episode.index}: {part}.", _AGAIN
            )
        if part is not None:
            by_file[part[:2]].append((episode, part))
    for (chunk, number), members in by_file.items():
        file = folder / info.video_path.format(chunk_index=chunk, file_index=number, video_key=camera)
        parts = [
            Part(
                into
                / VIDEO_PATH.format(
                    episode_chunk=episode.index // info.chunks_size, video_key=camera, episode_index=episode.index
                ),
                place.start,
                episode.length,
            )
            for episode, place in members
        ]
        cut(file, parts, info.fps)


def _write_lines(file: Path, documents: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in documents), encoding="utf-8")
