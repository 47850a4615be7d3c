"""Where a batch's tokens and patches are: what follows from token ids and image sizes alone, computed on the CPU.

transformers' model finds it out from tensors on the GPU, for which the host waits several times per step. Computed
where a batch is collated, it moves with the batch, and the model never asks the GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

from trainer.gr00t.n17.sections import QwenConfig

Grid = tuple[int, int]
"""Patches of an image, down and across."""


class Positions(NamedTuple):
    """The keys of a batch that the backbone takes, for B prompts of N tokens.

    Fields of patches cover the shortest series of images whose sizes repeat, U patches: one image where all are alike,
    one sample's images where its cameras differ.
    """

    position_ids: torch.Tensor
    """int64 [3, B, N]: positions of the tokens in time, height and width, 0 at padding."""
    image_indices: torch.Tensor
    """int64 [K]: which of the B x N tokens are images', in order."""
    interp_indices: torch.Tensor
    """int64 [U, 4]: the rows of the learned positions that each patch lies between."""
    interp_weights: torch.Tensor
    """float32 [U, 4]: their weights."""
    patch_positions: torch.Tensor
    """int64 [U, 2]: row and column of each patch in its image."""
    image_patches: list[int]
    """Patches of each image of the series. In host memory, wherever the batch is."""

    @classmethod
    def of(cls, inputs: Mapping[str, Any], device: torch.device) -> Positions | None:
        """Those of the batch ``inputs``, on ``device``; None where it lacks any."""
        if not set(cls._fields) <= inputs.keys():
            return None
        return cls(**{name: inputs[name] for name in cls._fields}).to(device)

    def to(self, device: torch.device) -> Positions:
        """These on ``device``, without waiting for it."""
        moved: dict[str, Any] = {
            name: each.to(device, non_blocking=True)
            for name, each in self._asdict().items()
            if isinstance(each, torch.Tensor)
        }
        return self._replace(**moved)


def find_positions(
    input_ids: torch.Tensor, attention_mask: torch.Tensor | None, grids: Sequence[Grid], qwen: QwenConfig
) -> Positions:
    """Those of token ids [B, N] in host memory, of which ``attention_mask`` [B, N] is 0 where they are padding.

    Raises ``ValueError`` when the prompts have another number of image tokens than images of these ``grids`` give.
    """
    ids = input_ids.numpy()
    real = np.ones(ids.shape, bool) if attention_mask is None else attention_mask.numpy() != 0
    images = ids == qwen.image_token_id
    merged = [(rows // qwen.merge_size, columns // qwen.merge_size) for rows, columns in grids]
    counts = np.array([rows * columns for rows, columns in merged])
    if images.sum() != counts.sum():
        raise ValueError(f"The prompts have room for {images.sum()} image tokens; the images give {counts.sum()}.")
    positions, used = np.zeros((3, *ids.shape), np.int64), 0
    ends = counts.cumsum()
    for row, here in enumerate(real):
        last = int(np.searchsorted(ends, images[: row + 1].sum(), side="right"))
        positions[:, row, here] = _rope_positions(images[row, here], merged[used:last])
        used = last
    return Positions(
        torch.from_numpy(positions),
        torch.from_numpy(np.flatnonzero(images)),
        *_of_patches(_repeated(grids), qwen.positions_side, qwen.merge_size),
    )


def _rope_positions(images: np.ndarray, grids: Sequence[Grid]) -> np.ndarray:
    """Positions [3, n] of a prompt's n tokens, of which ``images`` [n] are images' (multimodal RoPE, as Qwen2-VL has
    it): text counts on; an image's tokens share a time, and the text after it continues where its longer side ends.
    """
    positions = np.tile(np.arange(len(images)), (3, 1))
    tokens, taken = np.flatnonzero(images), 0
    for rows, columns in grids:
        start = tokens[taken]
        taken += rows * columns
        end = start + rows * columns
        positions[:, end:] -= rows * columns - max(rows, columns)
        positions[0, start:end] = positions[0, start]
        down, across = np.divmod(np.arange(rows * columns), columns)
        positions[1, start:end], positions[2, start:end] = positions[1, start] + down, positions[2, start] + across
    return positions


def _repeated(grids: Sequence[Grid]) -> tuple[Grid, ...]:
    """The shortest series that ``grids`` repeat."""
    for length in range(1, len(grids) // 2 + 1):
        if len(grids) % length == 0 and list(grids) == list(grids[:length]) * (len(grids) // length):
            return tuple(grids[:length])
    return tuple(grids)


@lru_cache(maxsize=64)
def _of_patches(
    grids: tuple[Grid, ...], side: int, merge: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[int]]:
    """The last four of ``Positions``: most batches have images of the same sizes."""
    sizes = torch.tensor([[1, *grid] for grid in grids])
    indices, weights = get_vision_interpolation_indices_and_weights(
        sizes, num_grid_per_side=side, mode="bilinear", align_corners=True, spatial_merge_size=merge
    )
    return indices, weights, get_vision_position_ids(sizes, merge), [rows * columns for rows, columns in grids]
