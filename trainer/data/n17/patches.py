"""Images as Qwen3-VL's patches, on a CPU one by one and on a GPU a batch at a time, with the same numbers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torchvision.transforms.v2 import InterpolationMode, functional

from trainer.data.n17 import bicubic


class Patches(NamedTuple):
    """The sizes of a patch, in pixels and frames, and how many each way are merged into a token."""

    size: int
    merge: int
    times: int

    @property
    def width(self) -> int:
        """Values of a patch."""
        return 3 * self.times * self.size**2


def write_patches(image: np.ndarray, grid: tuple[int, int], patches: Patches, out: np.ndarray) -> None:
    """Write an image, uint8 ``[3, H, W]``, as ``grid`` (rows, columns) patches to ``out`` float32 ``[patches, width]``.

    In the order of the tokens they are merged into; the frame is repeated in time. Resized where it has another size.
    """
    from trainer.data.n17 import kernels  # numba, which takes a while to import

    wanted = [each * patches.size for each in grid]
    if list(image.shape[1:]) != wanted:
        image = functional.resize(torch.from_numpy(image), wanted, InterpolationMode.BICUBIC, antialias=True).numpy()
    kernels.write_patches(image, *patches, out)


def patches_together(images: torch.Tensor, grid: tuple[int, int], patches: Patches) -> torch.Tensor:
    """The same of images uint8 ``[N, 3, H, W]`` on their device: float32 ``[N, rows x columns, width]``."""
    rows, columns = grid
    size, merge, times = patches
    images = bicubic.resize(images, rows * size, columns * size)
    # Numbers of the device: a GPU multiplies by the inverse of a divisor that is the host's.
    half = torch.full((), 127.5, device=images.device)
    pixels = (images.to(torch.float32) - half) / half
    blocks = pixels.view(-1, 3, rows // merge, merge, size, columns // merge, merge, size)
    blocks = blocks.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6)
    repeated = blocks.expand(*[-1] * 6, times, -1, -1)
    return repeated.reshape(len(images), rows * columns, patches.width)
