"""Colour jitter and rotation as albumentations and OpenCV compute them on bytes, without OpenCV.

Every step starts from bytes and ends in bytes. Brightness and contrast cut off what is behind the point, saturation
rounds. The hue turns in OpenCV's 8-bit HSV, where the circle has 180 steps. On upstream's goldens one value in ten
thousand differs by one, from the precision of the way back from HSV. On a CPU ``trainer.data.n17.kernels`` jitters;
here is the same for a batch on a GPU, bit for bit: no sum is taken in another order, no product fused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from trainer.data.n17.hsv import OF_SPREAD, OF_VALUE
from trainer.data.transforms.augment import planned, to_device

_HUE = 3


def jitter_together(images: torch.Tensor, order: np.ndarray, factors: np.ndarray) -> torch.Tensor:
    """Brightness (0), contrast (1), saturation (2) and hue (3) of B samples' images, each changed in its ``order``.

    The images are uint8 ``[B, V, 3, H, W]`` and changed in place, on their device. ``order`` and float64 ``factors``
    are ``[B, 4]``: a factor of the first three is 1 for no change, one of the hue is a share of the circle, 0 for none.
    Samples that share their next operation share its kernels.
    """
    same = factors == np.array([1.0, 1.0, 1.0, 0.0])
    plan = planned(np.where(np.take_along_axis(same, order, axis=1), -1, order))
    for kind, rows in plan:
        places, factor = to_device(rows, images.device), factors[rows, kind]
        images[places] = _STEPS[kind](images[places], factor)
    return images


def _brightness(images: torch.Tensor, factor: np.ndarray) -> torch.Tensor:
    return _scaled(images, factor, torch.zeros((), device=images.device))


def _contrast(images: torch.Tensor, factor: np.ndarray) -> torch.Tensor:
    total = _gray(images).sum((-3, -2, -1), keepdim=True, dtype=torch.int64).to(torch.float64)
    mean = total / _like(np.array(images.shape[-2] * images.shape[-1]), total)
    return _scaled(images, factor, (mean * _like(1 - factor, total)).to(torch.float32))


def _scaled(images: torch.Tensor, factor: np.ndarray, shift: torch.Tensor) -> torch.Tensor:
    scaled = images.to(torch.float32) * _like(factor.astype(np.float32), images)
    return (scaled + shift).clamp_(0, 255).to(torch.uint8)


def _saturation(images: torch.Tensor, factor: np.ndarray) -> torch.Tensor:
    rest = _gray(images).to(torch.float64) * _like(1 - factor, images)
    mixed = images.to(torch.float64) * _like(factor, images) + rest
    return mixed.round_().clamp_(0, 255).to(torch.uint8)


def _gray(images: torch.Tensor) -> torch.Tensor:
    """int32 ``[B, V, 1, H, W]``."""
    red, green, blue = images.to(torch.int32).split(1, -3)
    return (9798 * red + 19235 * green + 3735 * blue + 16384) >> 15


def _like(values: np.ndarray, images: torch.Tensor) -> torch.Tensor:
    """``values``, one or none of each sample, on the device, and not as a number of the host: a GPU multiplies by the
    inverse of such a divisor.
    """
    return to_device(values, images.device).view(-1, *[1] * (images.ndim - 1))


_SECTORS = np.array([[0, 2, 1, 1, 3, 0], [3, 0, 0, 2, 1, 1], [1, 1, 3, 0, 0, 2]])
"""For red, green and blue, which of value, low, falling and rising they are in each sixth of the circle."""


def _hue(images: torch.Tensor, factor: np.ndarray) -> torch.Tensor:
    red, green, blue = images.to(torch.int32).unbind(-3)
    value = torch.maximum(torch.maximum(red, green), blue)
    spread = value - torch.minimum(torch.minimum(red, green), blue)
    angle = torch.where(value == green, blue - red + 2 * spread, red - green + 4 * spread)
    angle = torch.where(value == red, green - blue, angle)
    of_value, of_spread = (to_device(each, images.device) for each in (OF_VALUE, OF_SPREAD))
    hue = (angle * of_spread[spread] + 2048) >> 12
    saturation = (spread * of_value[value] + 2048) >> 12
    circle = np.mod(np.arange(180) + 180 * factor[:, None], 180).astype(np.int64)
    turned_hue = to_device(circle, images.device).gather(1, torch.where(hue < 0, hue + 180, hue).flatten(1).long())
    return _from_hsv(turned_hue.view(hue.shape), saturation, value)


def _from_hsv(hue: torch.Tensor, saturation: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    turns = hue.to(torch.float32) * (6 / 180)
    strength, bright = saturation.to(torch.float32) * (1 / 255), value.to(torch.float32) * (1 / 255)
    sector = turns.floor()
    rest = turns - sector
    shares = [bright, bright * (1 - strength), bright * (1 - strength * rest), bright * (1 - strength * (1 - rest))]
    table = torch.stack([(each * 255).clamp_(0, 255).to(torch.uint8) for each in shares], -3)
    sectors = to_device(_SECTORS, hue.device)[:, sector.long() % 6].movedim(0, -3)
    return torch.where(saturation.unsqueeze(-3) == 0, table[..., :1, :, :], table.gather(-3, sectors))


_STEPS = (_brightness, _contrast, _saturation, _hue)


def turned(images: torch.Tensor, degrees: Sequence[float]) -> torch.Tensor:
    """Images uint8 ``[N, 3, H, W]``, each turned about its centre by its angle, counter-clockwise, on their device.

    Their edges are mirrored outwards.

    OpenCV's warpAffine with bilinear interpolation: places in 32nds of a pixel, weights in 1024ths.
    """
    height, width = images.shape[-2:]
    places = [to_device(each, images.device) for each in _sources(height, width, degrees)]
    x, y = (start[:, :, None] + along[:, None] >> 5 for start, along in (places[:2], places[2:]))
    right_share, lower_share = (x & 31).unsqueeze(1).int(), (y & 31).unsqueeze(1).int()
    columns = [_mirrored((x >> 5) + offset, width) for offset in (0, 1)]
    lines = [_mirrored((y >> 5) + offset, height) for offset in (0, 1)]
    source = images.flatten(-2).int()
    mixed = torch.full((), 512, dtype=torch.int32, device=images.device)
    for line, lower in zip(lines, (32 - lower_share, lower_share), strict=True):
        for column, right in zip(columns, (32 - right_share, right_share), strict=True):
            taken = source.gather(-1, (line * width + column).flatten(1)[:, None].expand(-1, 3, -1))
            mixed = mixed + taken.view(images.shape) * right * lower
    return (mixed >> 10).to(torch.uint8)


def _sources(height: int, width: int, degrees: Sequence[float]) -> tuple[np.ndarray, ...]:
    """Where each output comes from, in 1024ths of a pixel: the x of each row's start and what a column adds to it, and
    the same of y. The inverse of OpenCV's getRotationMatrix2D.
    """
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    cos, sin = (np.array([[function(math.radians(each))] for each in degrees]) for function in (math.cos, math.sin))
    rows, columns = np.arange(height), np.arange(width)
    starts_x = np.rint((-sin * rows + centre_x - cos * centre_x + sin * centre_y) * 1024).astype(np.int64) + 16
    starts_y = np.rint((cos * rows + centre_y - sin * centre_x - cos * centre_y) * 1024).astype(np.int64) + 16
    return (
        starts_x,
        np.rint((cos * columns) * 1024).astype(np.int64),
        starts_y,
        np.rint((sin * columns) * 1024).astype(np.int64),
    )


def _mirrored(places: torch.Tensor, size: int) -> torch.Tensor:
    """Places beyond the edge, reflected at the last pixel (BORDER_REFLECT_101)."""
    period = max(2 * (size - 1), 1)
    folded = places % period
    return torch.where(folded < size, folded, period - folded)
