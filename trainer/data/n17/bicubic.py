"""torch's bicubic resizing of bytes with antialiasing, on any device: torch itself takes other sums on a GPU.

On a CPU torch sums in integers as Pillow does (``aten/src/ATen/native/cpu/UpSampleKernel.cpp``): along the rows to
bytes, then down the columns, with weights of as many binary places as 16 bits allow.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from trainer.data.transforms.augment import to_device

_SUPPORT = 2.0
_SHARPNESS = -0.5


@lru_cache(maxsize=64)
def _taps(source: int, target: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Of each of ``target`` pixels, the source's pixels ``[K, target]`` and their integer weights, and the weights'
    binary places.
    """
    scale = source / target
    stretch = max(scale, 1.0)
    centres = scale * (np.arange(target) + 0.5)
    first = np.maximum((centres - _SUPPORT * stretch + 0.5).astype(np.int64), 0)
    last = np.minimum((centres + _SUPPORT * stretch + 0.5).astype(np.int64), source)
    taps = first + np.arange((last - first).max())[:, None]
    weights = np.where(taps < last, _cubic((taps - centres + 0.5) / stretch), 0.0)
    weights /= weights.sum(axis=0)
    places = next(each for each in range(22) if int(0.5 + weights.max() * 2 ** (each + 1)) >= 2**15)
    whole = np.trunc(weights * 2**places + np.where(weights < 0, -0.5, 0.5)).astype(np.int32)
    return np.minimum(taps, source - 1), whole, places


def _cubic(distance: np.ndarray) -> np.ndarray:
    """Keys' kernel."""
    x = np.abs(distance)
    near = ((_SHARPNESS + 2) * x - (_SHARPNESS + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * _SHARPNESS
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def resize(images: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Images uint8 ``[..., H, W]`` as uint8 ``[..., height, width]``, bit for bit what torch makes of them on a CPU."""
    for dim, size in ((-1, width), (-2, height)):
        if images.shape[dim] != size:
            images = _along(images, dim, size)
    return images


def _along(images: torch.Tensor, dim: int, size: int) -> torch.Tensor:
    taps, weights, places = _taps(images.shape[dim], size)
    shape = [-1, 1] if dim == -2 else [-1]
    total = torch.full((), 1 << (places - 1), dtype=torch.int32, device=images.device)
    for positions, weight in zip(taps, weights, strict=True):
        taken = images.index_select(dim, to_device(positions, images.device))
        total = total + taken.to(torch.int32) * to_device(weight, images.device).view(shape)
    return (total >> places).clamp_(0, 255).to(torch.uint8)
