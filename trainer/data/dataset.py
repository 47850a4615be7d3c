"""Datasets for training: samples of one LeRobot dataset, or of a mixture of several.

Upstream: ``LeRobotSingleDataset`` and ``LeRobotMixtureDataset`` (``gr00t/data/dataset.py``).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from trainer.config.data_options import VideoAlignment
from trainer.data.configs import DataConfig, get_data_config
from trainer.data.frame_cache import Entry, Source
from trainer.data.frames import FrameStore
from trainer.data.holdout import choose, episode_hash
from trainer.data.holdout_rule import NO_HOLDOUT
from trainer.data.image_columns import ImageColumn
from trainer.data.metadata import build_metadata, merge_metadata
from trainer.data.reader import DatasetReader
from trainer.data.result_cache import ResultCache
from trainer.data.statistics import Statistics, compute_statistics, needed_columns
from trainer.data.transforms.augment import jitter_array
from trainer.data.transforms.images import Augmentation, check_resolutions, crop_size, draw_augmentation
from trainer.data.transforms.planes import factors_of
from trainer.data.transforms.sample import Sample, SampleTransform


class StepBatch(NamedTuple):
    """B samples, stacked, with their images still to be resized and jittered, on the device that trains."""

    frames: torch.Tensor
    """uint8 ``[B, V, h, w, 3]``, cropped; or whole, as planes ``[B, V, H * 3 / 2, W]``."""
    jitter: np.ndarray
    """What ``trainer.data.transforms.augment`` takes, ``[B, 8]``."""
    texts: list[str]
    vectors: dict[str, torch.Tensor]
    """``state``, ``state_mask``, ``action``, ``action_mask`` and ``embodiment_id`` as the model takes them."""
    planes: dict[str, Any] = {}  # noqa: RUF012 - never changed
    """Where the frames are planes, the ``factors`` and ``corners`` of ``trainer.data.transforms.planes``."""


class _Part:
    """One dataset, its tables loaded and normalised for training: row arrays over all episodes, float32."""

    def __init__(self, reader: DatasetReader, transform: SampleTransform) -> None:
        self.reader = reader
        self.episodes = reader.trajectory_ids
        self.lengths = np.array(list(reader.lengths.values()), dtype=np.int64)
        self.ends = np.cumsum(self.lengths)
        self.padding = transform.action.padding().astype(np.float32)
        self.repeats = np.isnan(self.padding)
        with ThreadPoolExecutor(max_workers=8) as pool:
            tables = list(pool.map(reader.table, self.episodes))
            positions = list(pool.map(reader.positions, self.episodes, tables))
        self.hashes = [episode_hash(table) for table in tables]
        self.state = np.concatenate([transform.state.forward(table.state) for table in tables], dtype=np.float32)
        self.action = np.concatenate([transform.action.forward(table.action) for table in tables], dtype=np.float32)
        self.positions = np.concatenate(positions)
        """The frame each row means, int32 ``[rows, V]``."""
        self.texts = sorted({text for table in tables for text in table.texts})
        number = {text: i for i, text in enumerate(self.texts)}
        self.text_ids = np.array([number[text] for table in tables for text in table.texts], dtype=np.int32)
        self.sources = [reader.sources(episode) for episode in self.episodes]
        """Where the frames of each episode come from, one per view."""

    def episode_of(self, row: int) -> int:
        """Position of the episode that holds ``row``."""
        return int(np.searchsorted(self.ends, row, side="right"))

    def text(self, row: int) -> str:
        """The instruction at ``row``."""
        return self.texts[self.text_ids[row]]

    def views(self, row: int) -> list[np.ndarray]:
        """The frames at ``row``, uint8 ``[H, W, 3]`` each; those of the cache are not copied."""
        sources = self.sources[self.episode_of(row)]
        return [self.reader.frames.frame(*each) for each in zip(sources, self.positions[row].tolist(), strict=True)]

    def planes(self, row: int) -> list[Entry | None]:
        """What the cache holds as planes of the videos at ``row``, one per view."""
        return [self.reader.frames.planes(source) for source in self.sources[self.episode_of(row)]]

    def actions(self, rows: np.ndarray, horizon: int) -> np.ndarray:
        """The normalised actions from each of ``rows`` on, ``[B, horizon, D]``, padded beyond the episode's end."""
        ends = self.ends[np.searchsorted(self.ends, rows, side="right")][:, None]
        steps = rows[:, None] + np.arange(horizon)
        chunk = self.action[np.minimum(steps, ends - 1)]
        if not self.repeats.all():
            np.copyto(chunk, self.padding, where=(steps >= ends)[..., None] & ~self.repeats)
        return chunk


class TrainingDataset(Dataset[Sample]):
    """Training samples of one dataset, or of a mixture when there are several paths.

    One dataset: sample ``i`` is step ``i`` of all episodes, in the order they are listed. A mixture: ``i``
    only seeds a draw of dataset, trajectory and step, again in every epoch, with ``balance_dataset_weights`` in
    proportion to the datasets' lengths and with ``balance_trajectory_weights`` to the trajectories' (else uniform).

    Augmentation is drawn from a generator seeded with (seed, epoch, index): a resumed run sees the same samples,
    whatever the number of workers. (Without workers torch may use several threads, and colours may differ by 1/255.)
    ``cache_dir`` holds decoded frames, at most ``cache_bytes`` of them, and leaves ``spare_bytes`` of its disk.
    ``statistics`` are those of each dataset's columns where a check has them already, and ``memory`` is what it left.
    ``exclude`` are the episodes of each dataset that are left out altogether (``trainer.data.exclusion``), and
    ``holdout`` says which of the others are kept out of the training (``trainer.data.holdout``); statistics are then
    those of the rest. With ``on_gpu`` frames that the cache holds as planes are given as such, and
    ``trainer.data.collate.finish_images`` converts them on the device.
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
        spare_bytes: int = 0,
        balance_dataset_weights: bool = True,
        balance_trajectory_weights: bool = True,
        alignment: VideoAlignment = "timestamp",
        statistics: Sequence[Mapping[str, Statistics]] | None = None,
        memory: ResultCache | None = None,
        holdout: str = NO_HOLDOUT,
        exclude: Sequence[Sequence[str]] | None = None,
        on_gpu: bool = False,
    ) -> None:
        self.config = get_data_config(data_config) if isinstance(data_config, str) else data_config
        self.seed = seed
        self.balance_trajectory_weights = balance_trajectory_weights
        self._on_gpu = on_gpu
        # Shared memory: persistent workers keep their copy of the dataset, and must see set_epoch all the same.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self.frames = FrameStore(cache_dir, cache_bytes, spare_bytes, memory)
        excluded = list(exclude or [()] * len(paths))
        self.readers = [
            DatasetReader(path, self.config, self.frames, alignment, each)
            for path, each in zip(paths, excluded, strict=True)
        ]
        known = list(statistics or [None] * len(self.readers))
        self.held_out = [{} if holdout == NO_HOLDOUT else hold_out(reader, holdout) for reader in self.readers]
        """Of each dataset, the episodes that are not trained on, and their hashes."""
        for position, reader in enumerate(self.readers):
            if self.held_out[position] or (excluded[position] and known[position] is None):
                known[position] = compute_statistics(reader.meta, needed_columns(reader.meta, self.config), self.config)
        lengths = np.array([reader.meta.total_frames for reader in self.readers], dtype=np.float64)
        weights = lengths if balance_dataset_weights else np.ones(len(self.readers))
        self.dataset_weights = weights / weights.sum()
        """Probability of each dataset of the mixture."""
        # As long as it takes to draw every step of the least sampled dataset once, on average.
        self._length = int((lengths / self.dataset_weights).max())
        described = [
            build_metadata(reader.meta, embodiment_tag, self.config, each)
            for reader, each in zip(self.readers, known, strict=True)
        ]
        merged = len(described) > 1
        self.metadata = merge_metadata(described, self.dataset_weights, self.config) if merged else described[0]
        """What goes into ``experiment_cfg/metadata.json``; a mixture's statistics are merged."""
        self.transform = SampleTransform(self.config, self.metadata, embodiment_tag)
        self._parts = [_Part(reader, self.transform) for reader in self.readers]
        videos = [video for reader in self.readers for video in decoded_videos(reader)]
        self.frames.plan(videos, as_planes=on_gpu)
        self._all_planes = on_gpu and self.frames.planar == len(dict(videos))

    @property
    def sample_bytes(self) -> int:
        """What the frames of one sample take at most, in bytes: as large as the cameras', planes, or RGB, cropped."""
        return max(
            sum(
                3 * width * height // 2 if self._all_planes else 3 * math.prod(crop_size(height, width))
                for width, height in resolutions(reader)
            )
            for reader in self.readers
        )

    @property
    def trained_on(self) -> list[str]:
        """The hash of every episode that is trained on."""
        return [each for part in self._parts for each in part.hashes]

    def prepare(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Decode all videos into the cache now, instead of each at its first use; ``progress(done, of)``."""
        self.frames.prepare(progress)

    def set_epoch(self, epoch: int) -> None:
        """Draw other augmentations, and in a mixture other steps. Reaches running workers too."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        """One finished sample. Training takes batches (``__getitems__``), which give the same numbers faster."""
        index = self._checked(index)
        part, row = self._locate(index)
        return self.transform.sample(
            part.views(row),
            part.text(row),
            part.state[row : row + 1],
            part.actions(np.array([row]), self.config.action_horizon)[0],
            self._generator(index),
        )

    def __getitems__(self, indices: Sequence[int]) -> StepBatch:
        """The samples at ``indices`` as one batch: torch's loader asks for all of them at once."""
        located = [self._locate(self._checked(index)) for index in indices]
        if self._on_gpu and (planes := self._planes(located, indices)) is not None:
            return planes
        frames: np.ndarray | None = None
        drawn: dict[int, Augmentation] = {}
        # In the order of the videos: an open decoder, where frames are not cached, continues instead of starting again.
        for sample in sorted(range(len(located)), key=lambda each: (id(located[each][0]), located[each][1])):
            part, row = located[sample]
            views = part.views(row)
            height, width = views[0].shape[:2]
            crop_height, crop_width = crop_size(height, width)
            if frames is None:
                frames = np.empty((len(located), len(views), crop_height, crop_width, 3), dtype=np.uint8)
            drawn[sample] = draw_augmentation(height, width, self._generator(indices[sample]))
            top, left = drawn[sample].top, drawn[sample].left
            check_resolutions([view.shape[:2] for view in views])
            for view, image in enumerate(views):
                frames[sample, view] = image[top : top + crop_height, left : left + crop_width]
        return StepBatch(
            torch.from_numpy(frames),
            jitter_array([drawn[sample] for sample in range(len(located))]),
            [part.text(row) for part, row in located],
            self._vectors(located),
        )

    def _planes(self, located: list[tuple[_Part, int]], indices: Sequence[int]) -> StepBatch | None:
        """The batch with its frames as planes; None unless the cache holds all of them so, in one size."""
        entries = [part.planes(row) for part, row in located]
        known = [each for views in entries for each in views if each is not None and each.colours is not None]
        factors = [factors_of(each.colours) for each in known if each.colours is not None]
        shapes = {each.array.shape[1:] for each in known}
        if len(known) < sum(map(len, entries)) or None in factors or len(shapes) > 1:
            return None
        lines, width = shapes.pop()
        frames = np.empty((len(located), len(entries[0]), lines, width), dtype=np.uint8)
        places = np.concatenate([part.positions[row] for part, row in located]).tolist()
        for frame, entry, place in zip(frames.reshape(-1, lines, width), known, places, strict=True):
            frame[...] = entry.array[place]
        drawn = [draw_augmentation(lines * 2 // 3, width, self._generator(index)) for index in indices]
        return StepBatch(
            torch.from_numpy(frames),
            jitter_array(drawn),
            [part.text(row) for part, row in located],
            self._vectors(located),
            {
                "factors": torch.tensor(factors, dtype=torch.float32).view(*frames.shape[:2], -1),
                "corners": np.array([(each.top, each.left) for each in drawn]),
            },
        )

    def _vectors(self, located: list[tuple[_Part, int]]) -> dict[str, torch.Tensor]:
        """States and actions of a batch. Datasets of a mixture have the same widths."""
        config, batch = self.config, len(located)
        state = np.zeros((batch, 1, config.max_state_dim), dtype=np.float32)
        action = np.zeros((batch, config.action_horizon, config.max_action_dim), dtype=np.float32)
        for part in {id(part): part for part, _ in located}.values():
            places = [place for place, (owner, _) in enumerate(located) if owner is part]
            rows = np.array([located[place][1] for place in places])
            state[places, 0, : part.state.shape[1]] = part.state[rows]
            action[places, :, : part.action.shape[1]] = part.actions(rows, config.action_horizon)
        state_mask, action_mask = np.zeros(state.shape, dtype=bool), np.zeros(action.shape, dtype=bool)
        state_mask[..., : self.transform.state.width] = True
        action_mask[..., : self.transform.action.width] = True
        return {
            "state": torch.from_numpy(state),
            "state_mask": torch.from_numpy(state_mask),
            "action": torch.from_numpy(action),
            "action_mask": torch.from_numpy(action_mask),
            "embodiment_id": torch.full((batch,), self.transform.embodiment_id, dtype=torch.int64),
        }

    def _checked(self, index: int) -> int:
        if not 0 <= index < self._length:
            raise IndexError(index)
        return int(index)

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


def hold_out(reader: DatasetReader, holdout: str) -> dict[int, str]:
    """Leave the episodes that ``holdout`` chooses out of ``reader``; returns them with their hashes."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        tables = pool.map(reader.table, reader.trajectory_ids)
        hashes = dict(zip(reader.trajectory_ids, map(episode_hash, tables), strict=True))
    chosen = choose(hashes, holdout, reader.meta.path.name)
    reader.leave_out(chosen)
    return {episode: hashes[episode] for episode in chosen}


def resolutions(reader: DatasetReader) -> list[tuple[int, int]]:
    """Width and height of each camera, in the order of the data config."""
    return [reader.meta.camera(key).resolution for key in reader.config.video]


def decoded_videos(reader: DatasetReader) -> list[tuple[Source, int]]:
    """All videos of a dataset, camera by camera, with the bytes of their decoded frames."""
    videos: list[tuple[Source, int]] = []
    of_episodes = [reader.sources(episode) for episode in reader.trajectory_ids]
    for view, (width, height) in enumerate(resolutions(reader)):
        for sources, length in zip(of_episodes, reader.lengths.values(), strict=True):
            source = sources[view]
            count = length if isinstance(source, ImageColumn) else len(reader.frames.index(source).pts)
            videos.append((source, count * width * height * 3))
    return videos


def stable_hash(values: tuple[Any, ...]) -> int:
    """128 bits of the SHA-256 of ``values``: the same in every process, unlike ``hash``; upstream's ``safe_hash``."""
    return int(hashlib.sha256(repr(values).encode()).hexdigest(), 16) & (2**128 - 1)
