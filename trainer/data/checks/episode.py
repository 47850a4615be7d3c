"""What one episode shows: its table, the frames its rows mean, and whether they can be decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainer.config.data_options import VideoAlignment
from trainer.data.alignment import period_of
from trainer.data.clips import ClipIndex
from trainer.data.configs import DataConfig
from trainer.data.dataset_meta import DatasetMeta, Episode
from trainer.data.episodes import EpisodeTable, examine_table, frames_of_rows, value_columns
from trainer.data.frame_indices import FrameIndices
from trainer.data.image_columns import ImageColumn, ImageGroups, ImageReader
from trainer.data.locations import file_of
from trainer.data.problem import Problem
from trainer.data.result_cache import ResultCache
from trainer.data.tables import as_matrix
from trainer.data.video import FrameIndex, VideoDecoder, named, open_video
from trainer.errors import PippaError

_OTHER_RATE = 0.1


class ColumnSeen(NamedTuple):
    """A column of states or actions in one episode."""

    low: np.ndarray
    high: np.ndarray
    values: np.ndarray | None
    """float32 ``[T, D]``, where statistics have to be computed."""


@dataclass
class EpisodeSeen:
    """What an episode showed."""

    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    columns: dict[str, ColumnSeen] = field(default_factory=dict)
    clips: dict[str, tuple[Path, ClipIndex]] = field(default_factory=dict)
    """By camera, the frames it has in a video that holds others as well."""


class EpisodeCheck(NamedTuple):
    """How the episodes of a dataset are looked at."""

    meta: DatasetMeta
    config: DataConfig
    alignment: VideoAlignment
    computed: set[str]
    """Columns whose values are kept for their statistics."""
    memory: ResultCache
    indices: FrameIndices
    images: ImageGroups

    def look(self, episode: Episode, decoded: Sequence[bool]) -> EpisodeSeen:
        """Read the table and the videos of ``episode``; ``decoded`` says of each camera whether to decode frames."""
        meta, config = self.meta, self.config
        table, problems = examine_table(meta, config, episode, self.alignment)
        seen, file = EpisodeSeen(problems), meta.where(episode.episode_index)
        if table is not None:
            _look_at_rows(meta, config, episode, table, seen)
            for column in dict.fromkeys(column for column, _ in value_columns(meta, config).values()):
                values = as_matrix(table.columns[column])
                kept = values.astype(np.float32) if column in self.computed else None
                seen.columns[column] = ColumnSeen(values.min(axis=0), values.max(axis=0), kept)
        for key, decode in zip(config.video, decoded, strict=True):
            before = len(problems)
            try:
                if meta.in_tables(key):
                    self._look_at_images(key, episode, seen)
                else:
                    self._look_at_video(key, episode, table, seen, decode=decode)
            except PippaError as error:
                problems.append(Problem.of(error))
            if any(problem.message.startswith(file) for problem in problems[before:]):
                break  # the table's clock is wrong: the other cameras would say the same
        if not problems:
            for each in {run.file for run in meta.rows(episode.episode_index).runs}:
                self.memory.sha256(each)  # while it is in the page cache
        return seen

    def _look_at_video(
        self, key: str, episode: Episode, table: EpisodeTable | None, seen: EpisodeSeen, *, decode: bool
    ) -> None:
        video = self.meta.video(key, episode.episode_index)
        file, cure = file_of(video), f"Record or download the video again, or {self.meta.layout.REMOVE}."
        if file.is_file() and file.stat().st_size == 0:
            seen.problems.append(Problem(f"{file}: empty", cure))
            return
        index = self.indices.of(video)
        if isinstance(index, ClipIndex):
            seen.clips[key] = (file, index)
        else:
            self.indices.forget({video})  # no other episode is in it
        before = len(seen.problems)
        _compare_sizes(self.meta, key, str(file), (index.width, index.height), seen)
        if table is not None:
            frames = frames_of_rows(self.meta, key, episode, table, index, self.alignment)
            if isinstance(frames, Problem):
                seen.problems.append(frames)
        if len(seen.problems) == before:
            _compare_rates(self.meta, key, index, seen)
            if decode:
                _decode_ends(file, index, seen, cure)

    def _look_at_images(self, key: str, episode: Episode, seen: EpisodeSeen) -> None:
        """The first and the last image of a camera whose images are in the table, and that there is one in each row."""
        meta = self.meta
        column = ImageColumn(meta.rows(episode.episode_index), meta.modality.column("video", key))
        reader = ImageReader(column, self.images)
        try:
            for row in range(len(reader)):
                if row in (0, len(reader) - 1):
                    height, width, _ = reader.frame(row).shape
                    _compare_sizes(meta, key, str(reader.source), (width, height), seen)
                else:
                    reader.content(row)
        finally:
            reader.close()


def _look_at_rows(
    meta: DatasetMeta, config: DataConfig, episode: Episode, table: EpisodeTable, seen: EpisodeSeen
) -> None:
    file = meta.where(episode.episode_index)
    empty = next((row for row, text in enumerate(table.texts) if not text.strip()), None)
    if empty is not None:
        column = config.instruction_column(meta.modality)
        seen.warnings.append(
            Problem(
                f"{file}: the instruction is empty, first in row {empty}",
                f"{config.language} comes from {column!r}: write there, or into {meta.layout.TASKS}, what the robot "
                "is to do.",
            )
        )
    number = table.columns.get("episode_index")
    if number is not None and np.issubdtype(number.dtype, np.number) and (number != episode.episode_index).any():
        seen.warnings.append(
            Problem(
                f"{file}: its column episode_index says {number.reshape(-1)[0]:g}, its name {episode.episode_index}",
                "The name counts. See that the files were not mixed up.",
            )
        )


def _compare_sizes(meta: DatasetMeta, key: str, what: str, size: tuple[int, int], seen: EpisodeSeen) -> None:
    announced = meta.camera(key).resolution
    if size != announced:
        seen.problems.append(
            Problem(
                f"{what}: {size[0]}x{size[1]} pixels; meta/info.json says {announced[0]}x{announced[1]}",
                "Correct the shape in meta/info.json (height, width, channels), or re-encode the video.",
            )
        )


def _compare_rates(meta: DatasetMeta, key: str, index: FrameIndex | ClipIndex, seen: EpisodeSeen) -> None:
    """Whether a camera's own rate in info.json is the video's. Frames are found by their times, whatever it says."""
    name, camera = meta.modality.column("video", key), meta.camera(key)
    feature = meta.info.feature(name)
    rate = 1 / period_of(index, camera.fps)
    if feature and feature.details.get("video.fps") is not None and abs(rate / camera.fps - 1) > _OTHER_RATE:
        seen.warnings.append(
            Problem(
                f"{meta.path / 'meta/info.json'}: video.fps of {name!r} is {camera.fps:g}, and its videos run at "
                f"{rate:.4g}",
                "Frames are found by their times in the videos. Correct the rate.",
            )
        )


def _decode_ends(video: Path, index: FrameIndex | ClipIndex, seen: EpisodeSeen, cure: str) -> None:
    """Decode the first and the last frame."""
    whole, shift = (index.whole, index.first) if isinstance(index, ClipIndex) else (index, 0)
    decoder = VideoDecoder(video, whole)
    try:
        for position in (0, len(index.pts) - 1):
            decoder.frame(shift + position)
        with open_video(video) as container, named(video):
            first = next(container.decode(video=0), None)
    except PippaError as error:
        seen.problems.append(Problem(error.message.rstrip("."), cure))
        return
    finally:
        decoder.close()
    if first is not None and first.rotation:
        seen.warnings.append(
            Problem(
                f"{video}: marked to be shown turned by {abs(first.rotation)} degrees",
                "Frames are used as they are stored, not turned, as the robot's camera gives them. If players show the "
                "right picture, re-encode the videos.",
            )
        )
