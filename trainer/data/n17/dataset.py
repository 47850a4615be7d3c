"""Training samples of N1.7: the usable steps of one LeRobot dataset or of several, with frames of the past.

A step is usable when its whole horizon lies within its episode, as upstream has it; what is left out is counted.
Upstream's loader (``gr00t/data/dataset/sharded_single_step_dataset.py``) keeps decoded shards in memory, repeats its
batches over the workers and can't be resumed exactly; here an index means the same sample in every process, and frames
come from the cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from trainer.config.data_options import VideoAlignment
from trainer.data.data_config import DataConfig
from trainer.data.dataset import decoded_videos, hold_out, resolutions, stable_hash
from trainer.data.dataset_meta import DatasetMeta
from trainer.data.frame_cache import Source
from trainer.data.frames import FrameStore
from trainer.data.holdout import episode_hash
from trainer.data.holdout_rule import NO_HOLDOUT
from trainer.data.n17 import statistics
from trainer.data.n17.finish import StepBatch
from trainer.data.n17.images import Augmentation, cut, draw_augmentation, finished_size
from trainer.data.n17.sample import Sample, SampleProcessor
from trainer.data.n17.settings import ProcessorSettings
from trainer.data.n17.statistics import KeyStatistics, TagStatistics
from trainer.data.reader import DatasetReader
from trainer.data.statistics import Statistics, compute_statistics, load_statistics, needed_columns


class _Episode(NamedTuple):
    """One episode, its table loaded: T rows."""

    reader: DatasetReader
    state: dict[str, np.ndarray]
    """Raw, float32 ``[T, D]``."""
    action: dict[str, np.ndarray]
    sources: list[Source]
    """Where the frames of each camera come from."""
    positions: np.ndarray
    """The frame each row means in each camera, ``[T, V]``."""
    texts: list[str]
    hash: str
    """Of its states and actions, wherever it is stored."""

    def usable(self, horizon: int) -> int:
        """How many steps have their whole horizon in the episode."""
        return max(len(self.texts) - horizon + 1, 0)


class TrainingDataset(Dataset[Sample]):
    """Training samples of N1.7, one for each usable step, in the order of the datasets and their episodes.

    Statistics are computed from the data, relative ones step by step, so that they are those of this data config.
    Augmentation is drawn from a generator seeded with (seed, epoch, index): a resumed run sees the same samples,
    whatever the number of workers. ``known`` are the statistics of each dataset's columns where a check has them.
    ``exclude`` are the episodes of each that are left out altogether (``trainer.data.exclusion``); ``holdout`` says
    which to leave out of the training (``trainer.data.holdout``). Statistics are then those of the others.
    Raises ``DatasetError`` and ``UsageError``.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        config: DataConfig,
        settings: ProcessorSettings,
        embodiment_id: int,
        *,
        seed: int = 42,
        frames: FrameStore | None = None,
        alignment: VideoAlignment = "timestamp",
        known: Sequence[Mapping[str, Statistics]] | None = None,
        augment: bool = True,
        exclude: Sequence[Sequence[str]] | None = None,
        holdout: str = NO_HOLDOUT,
    ) -> None:
        self.config, self.settings, self.seed, self.augment = config, settings, seed, augment
        # Shared memory: persistent workers keep their copy of the dataset, and must see set_epoch all the same.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self.frames = frames or FrameStore()
        excluded = list(exclude or [()] * len(paths))
        self.readers = readers = [
            DatasetReader(path, config, self.frames, alignment, each)
            for path, each in zip(paths, excluded, strict=True)
        ]
        self.held_out = [{} if holdout == NO_HOLDOUT else hold_out(reader, holdout) for reader in readers]
        """Of each dataset, the episodes that are not trained on, and their hashes."""
        columns = [
            # meta/stats.json counts every episode
            compute_statistics(reader.meta, needed_columns(reader.meta, config), config)
            if held_out or (left_out and checked is None)
            else checked
            for reader, held_out, left_out, checked in zip(
                readers, self.held_out, excluded, known or [None] * len(readers), strict=True
            )
        ]
        with ThreadPoolExecutor(max_workers=8) as pool:
            parts = [list(pool.map(lambda each, r=reader: _load(r, each), reader.trajectory_ids)) for reader in readers]
        steps = [sum(episode.usable(config.action_horizon) for episode in part) for part in parts]
        for reader, count in zip(readers, steps, strict=True):
            if not count:
                raise statistics.too_short(str(reader.meta.path), config.action_horizon)
        described = [
            _statistics(reader, part, config, column)
            for reader, part, column in zip(readers, parts, columns, strict=True)
        ]
        self.statistics = _merged(described, steps)
        """What the checkpoint's ``statistics.json`` says of this embodiment."""
        self.processor = SampleProcessor(config, settings, self.statistics, embodiment_id)
        self._episodes = [episode for part in parts for episode in part]
        self._ends = np.cumsum([episode.usable(config.action_horizon) for episode in self._episodes])
        """Steps whose horizon goes beyond their episode's end are no samples."""
        self.frames.plan([video for reader in readers for video in decoded_videos(reader)])

    @property
    def sample_bytes(self) -> int:
        """What the frames of one sample take, in bytes, as they come from the cameras."""
        times = len(self.config.video_delta_indices)
        return max(sum(3 * times * width * height for width, height in resolutions(each)) for each in self.readers)

    @property
    def meta(self) -> DatasetMeta:
        """That of the first dataset."""
        return self.readers[0].meta

    @property
    def trained_on(self) -> list[str]:
        """The hash of every episode that is trained on: of those that have a usable step."""
        return [each.hash for each in self._episodes if each.usable(self.config.action_horizon)]

    def set_epoch(self, epoch: int) -> None:
        """Draw other augmentations. Reaches running workers too."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Sample:
        """One finished sample. Training takes batches (``__getitems__``), which give the same numbers faster."""
        place, row = self._locate(index)
        episode = self._episodes[place]
        return self.processor.sample(
            self._frames(episode, row),
            episode.texts[row],
            {key: values[row : row + 1] for key, values in episode.state.items()},
            {key: values[row : row + self.config.action_horizon] for key, values in episode.action.items()},
            self._drawn(index),
        )

    def __getitems__(self, indices: Sequence[int]) -> StepBatch | list[Sample]:
        """The samples at ``indices`` as one batch: torch's loader asks for all of them at once. Finished samples where
        a camera's images differ in size, in several datasets.
        """
        located, drawn = [self._locate(index) for index in indices], [self._drawn(index) for index in indices]
        crops: list[list[np.ndarray]] = [[]] * len(located)
        # In the order of the videos: an open decoder, where frames are not cached, continues instead of starting again.
        for sample in sorted(range(len(located)), key=located.__getitem__):
            place, row = located[sample]
            frames = self._frames(self._episodes[place], row)
            crops[sample] = [cut(frame, self.settings, drawn[sample]) for frame in frames]
        views = list(zip(*crops, strict=True))
        if any(len({each.shape for each in view}) > 1 for view in views):
            return [self[index] for index in indices]
        return StepBatch(
            [torch.from_numpy(np.stack(view)) for view in views],
            [finished_size(self.settings, *view[0].shape[:2]) for view in views],
            drawn,
            [self.processor.text(self._episodes[place].texts[row]) for place, row in located],
            self._vectors(located),
        )

    def _vectors(self, located: Sequence[tuple[int, int]]) -> dict[str, torch.Tensor]:
        """States and actions of the steps (episode, row) of a batch."""
        horizon = self.config.action_horizon
        steps = [(self._episodes[place], row) for place, row in located]
        raw = {key: np.stack([each.state[key][row : row + 1] for each, row in steps]) for key in steps[0][0].state}
        future = {
            key: np.stack([each.action[key][row : row + horizon] for each, row in steps]) for key in steps[0][0].action
        }
        state, (action, mask) = self.processor.vectors.state(raw), self.processor.vectors.action(future, raw)
        return {
            "state": torch.from_numpy(state).expand(len(steps), -1, -1),
            "action": torch.from_numpy(action),
            "action_mask": torch.from_numpy(mask),
            "embodiment_id": torch.full((len(steps),), self.processor.embodiment_id, dtype=torch.int64),
        }

    def _locate(self, index: int) -> tuple[int, int]:
        """The place of the episode that a sample is of, and its row there."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        place = int(np.searchsorted(self._ends, index, side="right"))
        return place, index - int(self._ends[place - 1] if place else 0)

    def _drawn(self, index: int) -> Augmentation | None:
        return draw_augmentation(self.settings, self._generator(index)) if self.augment else None

    def _frames(self, episode: _Episode, row: int) -> list[np.ndarray]:
        """The frames at ``row`` and before it, the oldest first. Before an episode's start there is its first frame;
        upstream takes those of its end (``upstream_exact``).
        """
        frames = []
        for delta in self.config.video_delta_indices:
            past = row + delta
            past = past if past >= 0 else past % len(episode.texts) if self.settings.upstream_exact else 0
            pairs = zip(episode.sources, episode.positions[past].tolist(), strict=True)
            frames += [self.frames.frame(source, position) for source, position in pairs]
        return frames

    def _generator(self, index: int) -> torch.Generator:
        seed = stable_hash(("augmentation", self.seed, int(self._epoch), index)) % 2**63
        return torch.Generator().manual_seed(seed)


def _load(reader: DatasetReader, number: int) -> _Episode:
    table = reader.table(number)
    state, action = (
        {name.partition(".")[2]: values.astype(np.float32) for name, values in part.items()}
        for part in (table.state, table.action)
    )
    positions = reader.positions(number, table)
    return _Episode(reader, state, action, reader.sources(number), positions, table.texts, episode_hash(table))


def _statistics(
    reader: DatasetReader,
    episodes: Sequence[_Episode],
    config: DataConfig,
    known: Mapping[str, Statistics] | None,
) -> TagStatistics:
    """Those of one dataset: of its columns as ``meta/stats.json`` or a check has them, of relative actions computed."""
    meta = reader.meta
    columns = known if known is not None else load_statistics(meta, config)
    groups: dict[str, dict[str, KeyStatistics]] = {"state": {}, "action": {}}
    for modality, found in groups.items():
        for key in config.keys(modality):
            entry = getattr(meta.modality, modality)[key]
            own = columns[meta.modality.column(modality, key)].slice(entry.start, entry.end)
            found[key] = KeyStatistics(**own.model_dump())
    relative = {
        feature.key: statistics.of_relative(
            feature,
            [(each.action[feature.key], each.state[feature.relative_to]) for each in episodes],
            config.action_horizon,
            str(meta.path),
        )
        for feature in config.action
        if feature.relative_to
    }
    return TagStatistics(**groups, relative_action=relative)


def _merged(parts: Sequence[TagStatistics], steps: Sequence[int]) -> TagStatistics:
    """Those of several datasets, weighted by their usable steps."""
    if len(parts) == 1:
        return parts[0]
    groups = {
        name: {
            key: statistics.merged([getattr(part, name)[key] for part in parts], steps)
            for key in getattr(parts[0], name)
        }
        for name in TagStatistics.model_fields
    }
    return TagStatistics(**groups)
