"""Datasets for training and evaluation: raw steps of one LeRobot dataset, and samples of one or several.

Upstream: ``LeRobotSingleDataset`` and ``LeRobotMixtureDataset`` (``gr00t/data/dataset.py``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from trainer.data.configs import DataConfig, get_data_config
from trainer.data.frames import FrameStore
from trainer.data.metadata import build_metadata, merge_metadata
from trainer.data.modality import DatasetMeta
from trainer.data.tables import as_matrix, read_columns
from trainer.data.transforms.sample import Sample, SampleTransform
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


class _Part:
    """One dataset, its tables loaded and normalised for training: row arrays over all episodes, float32."""

    def __init__(self, reader: DatasetReader, transform: SampleTransform) -> None:
        self.reader = reader
        self.episodes = reader.trajectory_ids
        self.lengths = np.array(list(reader.lengths.values()), dtype=np.int64)
        self.ends = np.cumsum(self.lengths)
        self.padding = transform.action.padding().astype(np.float32)
        with ThreadPoolExecutor(max_workers=8) as pool:
            tables = list(pool.map(reader.table, self.episodes))
        self.state = np.concatenate([transform.state.forward(table.state) for table in tables], dtype=np.float32)
        self.action = np.concatenate([transform.action.forward(table.action) for table in tables], dtype=np.float32)
        self.timestamps = np.concatenate([table.timestamps for table in tables])
        self.texts = sorted({text for table in tables for text in table.texts})
        number = {text: i for i, text in enumerate(self.texts)}
        self.text_ids = np.array([number[text] for table in tables for text in table.texts], dtype=np.int32)

    def episode_of(self, row: int) -> int:
        """Position of the episode that holds ``row``."""
        return int(np.searchsorted(self.ends, row, side="right"))

    def actions(self, row: int, horizon: int) -> np.ndarray:
        """The normalised actions from ``row`` on, ``[horizon, D]``, padded beyond the episode's end."""
        end = int(self.ends[self.episode_of(row)])
        rows = np.arange(row, row + horizon)
        chunk = self.action[np.minimum(rows, end - 1)]
        return np.where((rows >= end)[:, None] & ~np.isnan(self.padding), self.padding, chunk)


class TrainingDataset(Dataset[Sample]):
    """Training samples of one dataset, or of a mixture when there are several paths.

    One dataset: sample ``i`` is step ``i`` of all episodes, in the order of ``meta/episodes.jsonl``. A mixture: ``i``
    only seeds a draw of dataset, trajectory and step, anew in every epoch, with ``balance_dataset_weights`` in
    proportion to the datasets' lengths and with ``balance_trajectory_weights`` to the trajectories' (else uniform).

    Augmentation is drawn from a generator seeded with (seed, epoch, index): a resumed run sees the same samples,
    whatever the number of workers. (Without workers torch may use several threads, and colours may differ by 1/255.)
    ``cache_dir`` holds decoded frames, at most ``cache_bytes`` of them.
    Raises ``DatasetError`` and ``UsageError``.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        data_config: DataConfig | str,
        embodiment_tag: str,
        *,
        seed: int = 42,
        cache_dir: Path | None = None,
        cache_bytes: int | None = None,
        balance_dataset_weights: bool = True,
        balance_trajectory_weights: bool = True,
    ) -> None:
        self.config = get_data_config(data_config) if isinstance(data_config, str) else data_config
        self.seed = seed
        self.balance_trajectory_weights = balance_trajectory_weights
        # Shared memory: persistent workers keep their copy of the dataset, and must see set_epoch all the same.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self.frames = FrameStore(cache_dir, cache_bytes)
        self.readers = [DatasetReader(path, self.config, self.frames) for path in paths]
        lengths = np.array([reader.meta.total_frames for reader in self.readers], dtype=np.float64)
        weights = lengths if balance_dataset_weights else np.ones(len(self.readers))
        self.dataset_weights = weights / weights.sum()
        """Probability of each dataset of the mixture."""
        # As long as it takes to draw every step of the least sampled dataset once, on average.
        self._length = int((lengths / self.dataset_weights).max())
        described = [build_metadata(reader.meta, embodiment_tag) for reader in self.readers]
        self.metadata = merge_metadata(described, self.dataset_weights) if len(described) > 1 else described[0]
        """What goes into ``experiment_cfg/metadata.json``; a mixture's statistics are merged."""
        self.transform = SampleTransform(self.config, self.metadata, embodiment_tag)
        self._parts = [_Part(reader, self.transform) for reader in self.readers]
        self.frames.plan(self._videos())

    def _videos(self) -> list[tuple[Path, int]]:
        videos = []
        for reader in self.readers:
            for key in self.config.video:
                width, height = reader.meta.info.camera(reader.meta.modality.column("video", key)).resolution
                for episode, length in reader.lengths.items():
                    videos.append((reader.meta.video_path(key, episode), length * width * height * 3))
        return videos

    def prepare(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Decode all videos into the cache now, instead of each at its first use; ``progress(done, of)``."""
        self.frames.prepare(progress)

    def set_epoch(self, epoch: int) -> None:
        """Draw other augmentations, and in a mixture other steps. Reaches running workers too."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        index = int(index)
        if not 0 <= index < self._length:
            raise IndexError(index)
        part, row = self._locate(index)
        episode = part.episodes[part.episode_of(row)]
        timestamps = part.timestamps[row : row + 1]
        meta = part.reader.meta
        views = [self.frames.frames(meta.video_path(key, episode), timestamps)[0] for key in self.config.video]
        return self.transform.sample(
            views,
            part.texts[part.text_ids[row]],
            part.state[row : row + 1],
            part.actions(row, self.config.action_horizon),
            self._generator(index),
        )

    def _locate(self, index: int) -> tuple[_Part, int]:
        if len(self._parts) == 1:
            return self._parts[0], index
        draw = np.random.default_rng(stable_hash((int(self._epoch), index, self.seed)))
        part = self._parts[draw.choice(len(self._parts), p=self.dataset_weights)]
        weights = part.lengths / part.lengths.sum() if self.balance_trajectory_weights else None
        trajectory = int(draw.choice(len(part.lengths), p=weights))
        step = int(draw.choice(part.lengths[trajectory]))
        return part, int(part.ends[trajectory] - part.lengths[trajectory]) + step

    def _generator(self, index: int) -> torch.Generator:
        seed = stable_hash(("augmentation", self.seed, int(self._epoch), index)) % 2**63
        return torch.Generator().manual_seed(seed)


def stable_hash(values: tuple[Any, ...]) -> int:
    """128 bits of the SHA-256 of ``values``: the same in every process, unlike ``hash``; upstream's ``safe_hash``."""
    return int(hashlib.sha256(repr(values).encode()).hexdigest(), 16) & (2**128 - 1)
