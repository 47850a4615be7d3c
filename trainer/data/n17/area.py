"""Resizing as OpenCV's ``INTER_AREA`` does, bit for bit, without OpenCV.

Upstream resizes through albumentations and OpenCV 4.11. Three cases: shrinking averages the covered pixels in float32,
shrinking to exactly half averages four in integers, and enlarging (also where one side grows) interpolates in fixed
point. The sums run in OpenCV's order, since float32 sums depend on it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from trainer.data.transforms.augment import to_device


class _Taps(NamedTuple):
    """What each output is made of: source positions, uint32 ``[K, m]``, and their weights ``[K, m]``."""

    positions: np.ndarray
    weights: np.ndarray


@lru_cache(maxsize=64)
def _shrinking(n: int, m: int) -> _Taps:
    """The pixels each of ``m`` cells of ``n`` pixels covers, weighted by how much of them lies in it; float32."""
    scale = n / m
    cells: list[list[tuple[int, float]]] = []
    for cell in range(m):
        start, end = cell * scale, cell * scale + scale
        width = min(scale, n - start)
        last = min(int(np.floor(end)), n - 1)
        first = min(int(np.ceil(start)), last)
        covered = []
        if first - start > 1e-3:
            covered.append((first - 1, (first - start) / width))
        covered += [(position, 1.0 / width) for position in range(first, last)]
        if end - last > 1e-3:
            covered.append((last, min(min(end - last, 1.0), width) / width))
        cells.append(covered)
    most = max(map(len, cells))
    positions, weights = np.zeros((most, m), dtype=np.uint32), np.zeros((most, m), dtype=np.float32)
    for cell, covered in enumerate(cells):
        for tap, (position, weight) in enumerate(covered):
            positions[tap, cell], weights[tap, cell] = position, weight
    return _Taps(positions, weights)


@lru_cache(maxsize=64)
def enlarging(n: int, m: int) -> _Taps:
    """The two pixels each output lies between, with weights in 2048ths; int32."""
    inverse = m / n
    output = np.arange(m)
    positions = np.floor(output * (1.0 / inverse)).astype(np.int64)
    fraction = ((output + 1) - (positions + 1) * inverse).astype(np.float32)
    fraction = np.where(fraction <= 0, np.float32(0), fraction - np.floor(fraction)).astype(np.float32)
    beyond = positions >= n - 1
    positions, fraction = np.where(beyond, n - 1, positions), np.where(beyond, np.float32(0), fraction)
    second = np.rint(fraction * np.float32(2048)).astype(np.int32)
    first = np.rint((np.float32(1) - fraction) * np.float32(2048)).astype(np.int32)
    both = np.stack([positions, np.minimum(positions + 1, n - 1)]).astype(np.uint32)
    return _Taps(both, np.stack([first, second]))


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """``image`` uint8 ``[H, W, 3]`` as uint8 ``[height, width, 3]``."""
    rows, columns = image.shape[:2]
    if (rows, columns) == (height, width):
        return image
    out = np.empty((height, width, 3), dtype=np.uint8)
    if height > rows or width > columns:
        enlarge_into(image, out.transpose(2, 0, 1))
        return out
    if rows == 2 * height and columns == 2 * width:
        quads = image.reshape(height, 2, width, 2, -1).astype(np.uint16).sum(axis=(1, 3), dtype=np.uint16)
        return ((quads + 2) >> 2).astype(np.uint8)
    from trainer.data.n17 import kernels  # numba, which takes a while to import

    kernels.shrink(_whole(image), *_shrinking(rows, height), *_shrinking(columns, width), out)
    return out


def enlarge_into(image: np.ndarray, out: np.ndarray) -> None:
    """``image`` uint8 ``[H, W, 3]`` enlarged into ``out``, uint8 ``[3, height, width]``: one of its sides, or both."""
    from trainer.data.n17 import kernels

    rows, columns = (enlarging(*sides) for sides in zip(image.shape[:2], out.shape[1:], strict=True))
    kernels.enlarge(_whole(image), *rows, *columns, out)


def enlarge_together(images: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Images uint8 ``[..., H, W]`` enlarged to uint8 ``[..., height, width]`` on their device, in torch's kernels."""
    rows, columns = images.shape[-2:]
    if (rows, columns) == (height, width):
        return images.contiguous()
    (left, right), across = (to_device(each, images.device) for each in _as_torch(enlarging(columns, width)))
    (upper, lower), down = (to_device(each, images.device) for each in _as_torch(enlarging(rows, height)))
    lines = images.index_select(-1, left).int() * across[0] + images.index_select(-1, right).int() * across[1]
    lines >>= 4
    first, second = (
        lines.index_select(-2, place).mul_(weight[:, None]).bitwise_right_shift_(16)
        for place, weight in zip((upper, lower), down, strict=True)
    )
    return (first.add_(second).add_(2) >> 2).clamp_(0, 255).to(torch.uint8)


def _as_torch(taps: _Taps) -> tuple[np.ndarray, np.ndarray]:
    """As ``index_select`` takes them: by signed numbers."""
    return taps.positions.astype(np.int64), taps.weights


def _whole(image: np.ndarray) -> np.ndarray:
    """``image`` as kernels take it: each kind of array, such as a part of a frame or one that is read-only, would be
    compiled for separately.
    """
    return image if image.flags.c_contiguous and image.flags.writeable else image.copy()
