"""The crops of a batch, turned into the backbone's patches on the device that trains: the numbers of a single sample.

A crop is an eighth of its patches' bytes, so it is what crosses from the loading processes to the GPU. There a batch is
one series of torch's kernels; on a CPU every image goes through ``trainer.data.n17.kernels``, one sample to a thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from trainer.data.n17 import area
from trainer.data.n17.colour import jitter_together, turned
from trainer.data.n17.images import Augmentation, finish
from trainer.data.n17.patches import Patches, patches_together, write_patches
from trainer.data.transforms.augment import each_sample


class StepBatch(NamedTuple):
    """B samples, stacked, with their images still to be finished."""

    crops: list[torch.Tensor]
    """uint8 ``[B, h, w, 3]`` of each of V images of a sample: the oldest frame of every camera, then the next."""
    sizes: list[tuple[int, int]]
    """Height and width that each of the V is enlarged to."""
    drawn: list[Augmentation | None]
    texts: list[str]
    vectors: dict[str, torch.Tensor]
    """``state``, ``action``, ``action_mask`` and ``embodiment_id`` as the model takes them."""


@dataclass(frozen=True)
class Finish:
    """What is left to do to crops that have arrived on the device; it stays in host memory itself."""

    sizes: Sequence[tuple[int, int]]
    """As in ``StepBatch``."""
    drawn: Sequence[Augmentation | None]
    grids: Sequence[tuple[int, int]]
    """How many patches each of the V images has, down and across."""
    patches: Patches

    def pixel_values(self, crops: Sequence[torch.Tensor]) -> torch.Tensor:
        """The patches of all images, sample by sample, float32 ``[B x patches, width]``."""
        on_cpu = crops[0].device.type == "cpu"
        return self.on_cpu([each.numpy() for each in crops]) if on_cpu else self.together(crops)

    def on_cpu(self, crops: Sequence[np.ndarray]) -> torch.Tensor:
        """The same, one sample to a thread."""
        ends = np.cumsum([rows * columns for rows, columns in self.grids]).tolist()
        pixels = np.empty((len(self.drawn), ends[-1], self.patches.width), dtype=np.float32)

        def sample(index: int) -> None:
            for crop, size, grid, end in zip(crops, self.sizes, self.grids, ends, strict=True):
                image = finish(crop[index], size, self.drawn[index])
                out = pixels[index, end - grid[0] * grid[1] : end]
                write_patches(image, grid, self.patches, out)

        each_sample(sample, len(self.drawn))
        return torch.from_numpy(pixels).flatten(0, 1)

    def together(self, crops: Sequence[torch.Tensor]) -> torch.Tensor:
        """The same as a GPU does it: in torch's kernels, cameras of one size at once."""
        found: list[torch.Tensor] = [crops[0]] * len(crops)
        shapes = [tuple(each.shape) for each in crops]
        for shape in set(shapes):
            alike = [view for view, each in enumerate(shapes) if each == shape]
            grid = self.grids[alike[0]]
            images = self._finished(torch.stack([crops[view] for view in alike], dim=1), self.sizes[alike[0]])
            pixels = patches_together(images.flatten(0, 1), grid, self.patches).unflatten(0, images.shape[:2])
            for view, each in zip(alike, pixels.unbind(1), strict=True):
                found[view] = each
        return torch.cat(found, dim=1).flatten(0, 1)

    def _finished(self, crops: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Crops ``[B, V, h, w, 3]`` as images of ``size``, turned and jittered, uint8 ``[B, V, 3, H, W]``."""
        images = area.enlarge_together(crops.permute(0, 1, 4, 2, 3), *size)
        drawn = [each for each in self.drawn if each is not None]
        if not drawn:
            return images
        if drawn[0].angle is not None:
            angles = [each.angle or 0.0 for each in drawn for _ in range(images.shape[1])]
            images = turned(images.flatten(0, 1), angles).unflatten(0, images.shape[:2])
        if drawn[0].order:
            order = np.array([each.order for each in drawn])
            images = jitter_together(images, order, np.array([each.factors for each in drawn]))
        return images


def finish_images(batch: dict[str, Any]) -> dict[str, Any]:
    """Turn the crops of a collated ``StepBatch`` into ``pixel_values``, on their device."""
    if "crops" not in batch:
        return batch
    rest = {key: value for key, value in batch.items() if key not in ("crops", "finish")}
    return {**rest, "pixel_values": batch["finish"].pixel_values(batch["crops"])}
