"""The order of the training samples: a new permutation each epoch, the same on every rank, known from its number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch.utils.data import Dataset, Sampler


class EpochDataset(Protocol):
    """A dataset whose samples depend on the epoch (augmentation, draws from a mixture)."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    def set_epoch(self, epoch: int) -> None: ...


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields ``(epoch, index)``: a permutation of ``range(length)`` seeded with ``seed + epoch``.

    As upstream's sampler (``gr00t/experiment/trainer.py``), but the epoch travels with each index. Upstream tells the
    dataset in the main process only, which persistent workers never hear of; and with several GPUs it shuffles every
    epoch alike, since accelerate's wrapper hides the sampler's ``set_epoch``.
    """

    def __init__(self, length: int, seed: int) -> None:
        self._length = length
        self._seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed(self._seed + self.epoch)
        epoch = self.epoch
        for index in torch.randperm(self._length, generator=generator).tolist():
            yield epoch, index


class ByEpochAndIndex(Dataset[dict[str, Any]]):
    """Looks up the ``(epoch, index)`` pairs of ``EpochSampler`` in a dataset."""

    def __init__(self, dataset: EpochDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        self.dataset.set_epoch(epoch)
        return self.dataset[index]
