"""The order of the training samples: a new permutation each epoch, the same on every rank, known from its number."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class EpochSampler(Sampler[int]):
    """A permutation of ``range(length)`` seeded with ``seed + epoch``, as upstream's (``gr00t/experiment/trainer.py``).

    ``set_epoch`` has to be called by the training loop: with several GPUs accelerate's wrapper hides it, which is why
    upstream shuffles every epoch alike there.
    """

    def __init__(self, length: int, seed: int) -> None:
        self._length = length
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation of the next iteration."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        return iter(torch.randperm(self._length, generator=generator).tolist())
