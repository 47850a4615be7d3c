"""Raw steps of one LeRobot dataset (upstream: ``LeRobotSingleDataset``, ``gr00t/data/dataset.py``)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from trainer.config.data_options import VideoAlignment
from trainer.data.configs import DataConfig
from trainer.data.dataset_meta import DatasetMeta
from trainer.data.episodes import EpisodeTable, examine_table, frames_of_rows
from trainer.data.exclusion import leave_out
from trainer.data.frame_cache import Source
from trainer.data.frames import FrameStore
from trainer.data.image_columns import ImageColumn
from trainer.data.problem import Problem
from trainer.errors import DatasetError

T = TypeVar("T")


class DatasetReader:
    """Raw steps of one dataset, the keys of one data config, without the episodes that ``exclude`` names.

    Raises ``DatasetError`` when dataset and data config don't fit, ``UsageError`` for an episode that it doesn't have.
    """

    def __init__(
        self,
        path: Path,
        config: DataConfig,
        frames: FrameStore | None = None,
        alignment: VideoAlignment = "timestamp",
        exclude: Sequence[str] = (),
    ) -> None:
        self.meta = leave_out(DatasetMeta.load(path), exclude)
        self.config = config
        self.frames = frames or FrameStore()
        self.alignment: VideoAlignment = alignment
        require_keys(self.meta, config)
        self._episodes = {episode.episode_index: episode for episode in self.meta.episodes}
        self.lengths = {episode.episode_index: episode.length for episode in self.meta.episodes}
        """Steps of each episode, in the order they are listed."""

    @property
    def trajectory_ids(self) -> list[int]:
        """The episodes, in the order they are listed."""
        return list(self.lengths)

    def leave_out(self, episodes: Collection[int]) -> None:
        """Treat the dataset as if it did not have these ``episodes``."""
        kept = [each for each in self.meta.episodes if each.episode_index not in episodes]
        self.meta = replace(self.meta, episodes=kept)
        self.lengths = {episode.episode_index: episode.length for episode in kept}

    def table(self, episode: int) -> EpisodeTable:
        """Read the table of ``episode``. Raises ``DatasetError`` for its first problem."""
        table, problems = examine_table(self.meta, self.config, self._episodes[episode], self.alignment)
        if problems or table is None:
            raise problems[0].error()
        return table

    def sources(self, episode: int) -> list[Source]:
        """Where the frames of each camera lie in an episode, in the order of the data config."""
        meta = self.meta
        return [
            ImageColumn(meta.rows(episode), meta.modality.column("video", key))
            if meta.in_tables(key)
            else meta.video(key, episode)
            for key in self.config.video
        ]

    def positions(self, episode: int, table: EpisodeTable | None = None) -> np.ndarray:
        """The frame each row of ``episode`` means in each camera, int32 ``[T, V]``. ``table`` is that episode's.

        The one look-up from row to frame (``trainer.data.alignment``). Raises ``DatasetError`` where table and video
        contradict each other.
        """
        table = table or self._table(episode)
        found = []
        for key, source in zip(self.config.video, self.sources(episode), strict=True):
            index = None if isinstance(source, ImageColumn) else self.frames.index(source)
            frames = frames_of_rows(self.meta, key, self._episodes[episode], table, index, self.alignment)
            if isinstance(frames, Problem):
                raise frames.error()
            found.append(frames)
        return np.stack(found, axis=1).astype(np.int32)

    def get_step_data(self, trajectory_id: int, base_index: int) -> dict[str, Any]:
        """The raw step ``base_index`` of an episode, as upstream's method of this name gives it.

        ``video.<key>`` uint8 ``[V, H, W, 3]``, a frame for each of ``video_delta_indices`` (as a rule one; before an
        episode's start there is its first one), ``state.<key>`` float64 ``[1, D]``, ``action.<key>`` float64
        ``[action_horizon, D]`` and the annotation as a list with one text. A ``base_index`` beyond the episode is
        clamped; action steps beyond it repeat the last row, or are zero for relative keys (``absolute`` false).
        """
        table = self._table(trajectory_id)
        last = len(table.texts) - 1
        now = min(max(base_index, 0), last)
        future = base_index + np.arange(self.config.action_horizon)
        step: dict[str, Any] = {}
        past = np.maximum(now + np.array(self.config.video_delta_indices), 0)
        positions = self._positions(trajectory_id)[past]
        for view, (key, source) in enumerate(zip(self.config.video, self.sources(trajectory_id), strict=True)):
            step[f"video.{key}"] = self.frames.frames(source, positions[:, view])
        for name, values in table.state.items():
            step[name] = values[now : now + 1]
        for name, values in table.action.items():
            chunk = values[np.clip(future, 0, last)]
            if not self.meta.modality.action[name.removeprefix("action.")].absolute:
                chunk[(future < 0) | (future > last)] = 0
            step[name] = chunk
        step[self.config.language] = [table.texts[now]]
        return step

    def _table(self, episode: int) -> EpisodeTable:
        return self._recent("table", self.table)(episode)

    def _positions(self, episode: int) -> np.ndarray:
        return self._recent("positions", self.positions)(episode)

    def _recent(self, name: str, read: Callable[[int], T]) -> Callable[[int], T]:
        """``read``, which remembers the last episodes; not in a copy that goes to another process."""
        memory = self.__dict__.setdefault("_remembered", {})
        return memory.setdefault(name, lru_cache(maxsize=4)(read))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_remembered"}


def require_keys(meta: DatasetMeta, config: DataConfig) -> None:
    """Raise ``DatasetError`` when ``meta/modality.json`` lacks a key of ``config`` or describes it impossibly."""
    for modality, keys in config.missing(meta.modality).items():
        for key in keys:
            if what := meta.modality.unusable.get(f"{modality}.{key}"):
                raise DatasetError(
                    f"{meta.path / 'meta/modality.json'}: {modality}.{key}.{what}.", "Correct that entry."
                )
        raise DatasetError(
            f"{config.name} expects {', '.join(f'{modality}.{key}' for key in keys)}; "
            f"{meta.path} has {', '.join(meta.modality.keys(modality)) or 'none'}.",
            f"`pippa data check {meta.path} --data-config {config.name}` tells which data config fits.",
        )
