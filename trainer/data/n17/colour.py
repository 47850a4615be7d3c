"""Colour jitter and rotation as albumentations and OpenCV compute them on bytes, without OpenCV.

Every step starts from bytes and ends in bytes. Brightness and contrast cut off what is behind the point, saturation
rounds. The hue turns in OpenCV's 8-bit HSV, where the circle has 180 steps. On upstream's goldens one value in ten
thousand differs by one, from the precision of the way back from HSV.
"""

from __future__ import annotations

import math

import numpy as np


def jittered(image: np.ndarray, order: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """``image`` uint8 ``[H, W, 3]`` with brightness (0), contrast (1), saturation (2) and hue (3) changed in ``order``.

    ``factors`` of the first three are 1 for no change, that of the hue is a share of the circle, 0 for none.
    """
    for kind in order:
        factor = float(factors[kind])
        if factor != (0.0 if kind == _HUE else 1.0):
            image = _STEPS[kind](image, factor)
    return image


def _brightness(image: np.ndarray, factor: float) -> np.ndarray:
    # Upstream looks 256 bytes up in a table.
    table = np.clip(np.arange(256, dtype=np.float32) * np.float32(factor), 0, 255).astype(np.uint8)
    return table[image]


def _contrast(image: np.ndarray, factor: float) -> np.ndarray:
    mean = _gray(image).mean() * (1 - factor)
    table = np.clip(np.arange(256, dtype=np.float32) * np.float32(factor) + np.float32(mean), 0, 255).astype(np.uint8)
    return table[image]


def _saturation(image: np.ndarray, factor: float) -> np.ndarray:
    gray = _gray(image)[..., None].astype(np.float64)
    return np.clip(np.rint(image * factor + gray * (1 - factor)), 0, 255).astype(np.uint8)


def _hue(image: np.ndarray, factor: float) -> np.ndarray:
    hue, saturation, value = _to_hsv(image)
    turned = np.mod(np.arange(180, dtype=np.int16) + 180 * factor, 180).astype(np.uint8)
    return _from_hsv(turned[hue], saturation, value)


def _gray(image: np.ndarray) -> np.ndarray:
    red, green, blue = (image[..., channel].astype(np.int32) for channel in range(3))
    return ((9798 * red + 19235 * green + 3735 * blue + 16384) >> 15).astype(np.uint8)


_INVERSES = np.maximum(np.arange(256), 1)
_OF_VALUE = np.rint(255 * 4096 / _INVERSES).astype(np.int64)
_OF_RANGE = np.rint(180 * 4096 / (6.0 * _INVERSES)).astype(np.int64)


def _to_hsv(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    red, green, blue = (image[..., channel].astype(np.int64) for channel in range(3))
    value = np.maximum(np.maximum(red, green), blue)
    spread = value - np.minimum(np.minimum(red, green), blue)
    saturation = (spread * _OF_VALUE[value] + 2048) >> 12
    angle = np.where(
        value == red,
        green - blue,
        np.where(value == green, blue - red + 2 * spread, red - green + 4 * spread),
    )
    hue = (angle * _OF_RANGE[spread] + 2048) >> 12
    return np.where(hue < 0, hue + 180, hue), saturation, value


_SECTORS = np.array([[1, 3, 0], [1, 0, 2], [3, 0, 1], [0, 2, 1], [0, 1, 3], [2, 1, 0]])
"""For each sixth of the circle, which of value, low, falling and rising blue, green and red are."""


def _from_hsv(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    turns = hue.astype(np.float32) * np.float32(6 / 180)
    strength, bright = (part.astype(np.float32) * np.float32(1 / 255) for part in (saturation, value))
    sector = np.floor(turns).astype(np.int64)
    rest = turns - sector.astype(np.float32)
    one = np.float32(1)
    table = np.stack(
        [bright, bright * (one - strength), bright * (one - strength * rest), bright * (one - strength * (one - rest))]
    )
    blue, green, red = (
        np.take_along_axis(table, _SECTORS[sector % 6, channel][None], axis=0)[0] for channel in range(3)
    )
    colours = np.stack([red, green, blue], axis=-1)
    colours = np.where((saturation == 0)[..., None], bright[..., None], colours)
    return np.clip(colours * np.float32(255), 0, 255).astype(np.uint8)


def rotated(image: np.ndarray, degrees: float) -> np.ndarray:
    """``image`` uint8 ``[H, W, 3]`` turned about its centre, counter-clockwise; its edges are mirrored outwards.

    OpenCV's warpAffine with bilinear interpolation: places in 32nds of a pixel, weights in 1024ths.
    """
    height, width = image.shape[:2]
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # From an output's place to its source's: the inverse of OpenCV's getRotationMatrix2D.
    across = np.rint((cos * np.arange(width)) * 1024).astype(np.int64)
    down = np.rint((sin * np.arange(width)) * 1024).astype(np.int64)
    rows = np.arange(height)
    start_x = np.rint((-sin * rows + centre_x - cos * centre_x + sin * centre_y) * 1024).astype(np.int64) + 16
    start_y = np.rint((cos * rows + centre_y - sin * centre_x - cos * centre_y) * 1024).astype(np.int64) + 16
    x, y = (start_x[:, None] + across) >> 5, (start_y[:, None] + down) >> 5
    left, top, right_share, lower_share = x >> 5, y >> 5, (x & 31)[..., None], (y & 31)[..., None]
    columns = [_mirrored(left + offset, width) for offset in (0, 1)]
    lines = [_mirrored(top + offset, height) for offset in (0, 1)]
    source = image.astype(np.int64)
    mixed = (
        source[lines[0], columns[0]] * (32 - right_share) * (32 - lower_share)
        + source[lines[0], columns[1]] * right_share * (32 - lower_share)
        + source[lines[1], columns[0]] * (32 - right_share) * lower_share
        + source[lines[1], columns[1]] * right_share * lower_share
    )
    return ((mixed + 512) >> 10).astype(np.uint8)


def _mirrored(places: np.ndarray, size: int) -> np.ndarray:
    """Places beyond the edge, reflected at the last pixel (BORDER_REFLECT_101)."""
    period = max(2 * (size - 1), 1)
    folded = np.mod(places, period)
    return np.where(folded < size, folded, period - folded)


_HUE = 3
_STEPS = (_brightness, _contrast, _saturation, _hue)
