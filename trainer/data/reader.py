"""Raw steps of one LeRobot dataset (upstream: ``LeRobotSingleDataset``, ``gr00t/data/dataset.py``)."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trainer.data.configs import DataConfig
from trainer.data.dataset_meta import DatasetMeta
from trainer.data.frames import FrameStore
from trainer.data.tables import as_matrix, read_columns
from trainer.errors import DatasetError


class EpisodeTable(NamedTuple):
    """The columns of one episode, raw. T steps."""

    state: dict[str, np.ndarray]
    """``state.<key>``: float64 ``[T, D]``."""
    action: dict[str, np.ndarray]
    timestamps: np.ndarray
    """Seconds ``[T]``, in the precision they are stored in."""
    texts: list[str]
    """The instruction at each step."""


class DatasetReader:
    """Raw steps of one dataset, the keys of one data config. Raises ``DatasetError`` when the two don't fit."""

    def __init__(self, path: Path, config: DataConfig, frames: FrameStore | None = None) -> None:
        self.meta = DatasetMeta.load(path)
        self.config = config
        self.frames = frames or FrameStore()
        for modality, keys in config.missing(self.meta.modality).items():
            raise DatasetError(
                f"{config.name} expects {', '.join(f'{modality}.{key}' for key in keys)}; "
                f"{path} has {', '.join(self.meta.modality.keys(modality)) or 'none'}.",
                f"`pippa data check {path} --data-config {config.name}` tells which data config fits.",
            )
        self.lengths = {episode.episode_index: episode.length for episode in self.meta.episodes}
        """Steps of each episode, in the order of ``meta/episodes.jsonl``."""

    @property
    def trajectory_ids(self) -> list[int]:
        """The episodes, in the order of ``meta/episodes.jsonl``."""
        return list(self.lengths)

    def table(self, episode: int) -> EpisodeTable:
        """Read the table of ``episode``. Raises ``DatasetError``, also when its length is not the announced one."""
        modality, config = self.meta.modality, self.config
        file = self.meta.parquet_path(episode)
        annotation = modality.column("annotation", config.keys("annotation")[0])
        sources = {
            f"{kind}.{key}": (modality.column(kind, key), getattr(modality, kind)[key])
            for kind in ("state", "action")
            for key in config.keys(kind)
        }
        columns = read_columns(file, [*(column for column, _ in sources.values()), "timestamp", annotation])
        if len(columns["timestamp"]) != self.lengths[episode]:
            raise DatasetError(
                f"{file}: {len(columns['timestamp'])} rows; meta/episodes.jsonl says {self.lengths[episode]}.",
                "Correct the length there, or download the episode again.",
            )
        values = {}
        for name, (column, entry) in sources.items():
            values[name] = as_matrix(columns[column])[:, entry.start : entry.end]
            if values[name].shape[1] != entry.width:
                raise DatasetError(
                    f"{file}: {column!r} is too narrow for {name} ({entry.start} to {entry.end}).",
                    "Correct start and end in meta/modality.json.",
                )
        return EpisodeTable(
            state={name: value for name, value in values.items() if name.startswith("state.")},
            action={name: value for name, value in values.items() if name.startswith("action.")},
            timestamps=columns["timestamp"].reshape(-1),
            texts=[self._instruction(index, file) for index in columns[annotation].reshape(-1).tolist()],
        )

    def _instruction(self, index: int | str, file: Path) -> str:
        if isinstance(index, str):
            return index
        try:
            return self.meta.tasks[int(index)]
        except (KeyError, ValueError, TypeError):
            raise DatasetError(f"{file}: task {index} is not in meta/tasks.jsonl.", "Add it there.") from None

    def get_step_data(self, trajectory_id: int, base_index: int) -> dict[str, Any]:
        """The raw step ``base_index`` of an episode, as upstream's method of this name gives it.

        ``video.<key>`` uint8 ``[1, H, W, 3]``, ``state.<key>`` float64 ``[1, D]``, ``action.<key>`` float64
        ``[action_horizon, D]`` and the annotation as a list with one text. A ``base_index`` beyond the episode is
        clamped; action steps beyond it repeat the last row, or are zero for relative keys (``absolute`` false).
        """
        table = self._table(trajectory_id)
        last = len(table.timestamps) - 1
        now = min(max(base_index, 0), last)
        future = base_index + np.arange(self.config.action_horizon)
        step: dict[str, Any] = {}
        for key in self.config.video:
            path = self.meta.video_path(key, trajectory_id)
            step[f"video.{key}"] = self.frames.frames(path, table.timestamps[now : now + 1])
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
        if not hasattr(self, "_recent"):
            self._recent = lru_cache(maxsize=4)(self.table)
        return self._recent(episode)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_recent"}
