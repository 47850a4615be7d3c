"""The image pipeline of N1.7 on a CPU, compiled by numba: in numpy every tap and every colour is a pass over the image.

Sums keep their order and products are not fused: the results are OpenCV's and albumentations', bit for bit, as
``trainer.data.n17.area`` and ``trainer.data.n17.colour`` describe them. Between the crop and the patches an image is
uint8 ``[3, H, W]``, so that the loops run along rows of one channel.
"""

from __future__ import annotations

import os

import numpy as np

from trainer.config.settings import pippa_home
from trainer.data.n17.hsv import OF_SPREAD, OF_VALUE

# Compiled once per machine. Beside the source, numba's own choice, an image has no place to write.
os.environ.setdefault("NUMBA_CACHE_DIR", str(pippa_home() / "cache" / "numba"))

import numba

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)

# Not fastmath: it would change the order of sums and fuse products.
_compiled = numba.njit(nogil=True, cache=True, error_model="numpy")


@_compiled
def shrink(
    image: np.ndarray,
    row_positions: np.ndarray,
    row_weights: np.ndarray,
    column_positions: np.ndarray,
    column_weights: np.ndarray,
    out: np.ndarray,
) -> None:
    """uint8 ``[H, W, 3]`` to uint8 ``[h, w, 3]``: weighted float32 sums along the rows, then down the columns.

    Positions (unsigned, which spares a check for negative ones) and weights are ``[K, h]`` and ``[K, w]``.
    """
    height, rows, columns = image.shape[0], out.shape[0], out.shape[1]
    source, target = image.reshape(height, -1), out.reshape(rows, -1)
    lines = np.empty((height, 3 * columns), np.float32)
    for y in range(height):
        pixels, line = source[y], lines[y]
        for x in range(columns):
            red = green = blue = np.float32(0)
            for tap in range(column_positions.shape[0]):
                at, weight = 3 * column_positions[tap, x], column_weights[tap, x]
                red += np.float32(pixels[at]) * weight
                green += np.float32(pixels[at + 1]) * weight
                blue += np.float32(pixels[at + 2]) * weight
            line[3 * x], line[3 * x + 1], line[3 * x + 2] = red, green, blue
    total = np.empty(3 * columns, np.float32)
    for y in range(rows):
        total[:] = 0
        for tap in range(row_positions.shape[0]):
            line, weight = lines[row_positions[tap, y]], row_weights[tap, y]
            for i in range(total.size):
                total[i] += line[i] * weight
        for i in range(total.size):
            target[y, i] = np.uint8(np.int32(np.rint(total[i])))


@_compiled
def enlarge(
    image: np.ndarray,
    row_positions: np.ndarray,
    row_weights: np.ndarray,
    column_positions: np.ndarray,
    column_weights: np.ndarray,
    out: np.ndarray,
) -> None:
    """uint8 ``[H, W, 3]`` to uint8 ``[3, h, w]``: between two pixels each way, in 2048ths.

    Positions (unsigned) and int32 weights are ``[2, h]`` and ``[2, w]``.
    """
    rows, columns = out.shape[1], out.shape[2]
    source = image.reshape(image.shape[0], -1)
    lines = np.empty((2, 3 * columns), np.int32)
    held = np.full(2, -1, np.int64)
    for y in range(rows):
        for side in range(2):
            row = np.int64(row_positions[side, y])
            if held[side] == row:
                continue
            if side == 0 and held[1] == row:
                lines[0] = lines[1]
            else:
                _between(source[row], column_positions, column_weights, lines[side])
            held[side] = row
        upper, lower = lines[0], lines[1]
        first, second = row_weights[0, y], row_weights[1, y]
        for channel in range(3):
            target, start = out[channel, y], channel * columns
            for x in range(columns):
                mixed = ((upper[start + x] * first) >> 16) + ((lower[start + x] * second) >> 16)
                target[x] = np.uint8(min(max((mixed + 2) >> 2, 0), 255))


@_compiled
def _between(pixels: np.ndarray, positions: np.ndarray, weights: np.ndarray, line: np.ndarray) -> None:
    """A row of a source, its channels in turn, to a row of each channel."""
    columns = positions.shape[1]
    for x in range(columns):
        left, right = 3 * positions[0, x], 3 * positions[1, x]
        first, second = weights[0, x], weights[1, x]
        line[x] = (np.int32(pixels[left]) * first + np.int32(pixels[right]) * second) >> 4
        line[columns + x] = (np.int32(pixels[left + 1]) * first + np.int32(pixels[right + 1]) * second) >> 4
        line[2 * columns + x] = (np.int32(pixels[left + 2]) * first + np.int32(pixels[right + 2]) * second) >> 4


@_compiled
def jitter(image: np.ndarray, order: np.ndarray, factors: np.ndarray) -> None:
    """Change the colours of uint8 ``[3, H, W]`` in place, in ``order``, by float64 ``factors`` of the four operations.

    A factor of 1, or 0 of the hue, is no change.
    """
    for kind in order:
        factor = factors[kind]
        if kind == HUE:
            if factor != 0.0:
                _hue(image, factor)
        elif factor == 1.0:
            continue
        elif kind == BRIGHTNESS:
            _scale(image, np.float32(factor), np.float32(0))
        elif kind == CONTRAST:
            _contrast(image, factor)
        else:
            _saturation(image, factor)


@_compiled
def _scale(image: np.ndarray, factor: np.float32, shift: np.float32) -> None:
    flat = image.reshape(-1)
    for i in range(flat.size):
        scaled = np.float32(flat[i]) * factor + shift
        flat[i] = np.uint8(np.int32(min(max(scaled, np.float32(0)), np.float32(255))))


@_compiled
def _gray(red: np.uint8, green: np.uint8, blue: np.uint8) -> np.int32:
    return (9798 * np.int32(red) + 19235 * np.int32(green) + 3735 * np.int32(blue) + 16384) >> 15


@_compiled
def _contrast(image: np.ndarray, factor: float) -> None:
    red, green, blue = image[0].reshape(-1), image[1].reshape(-1), image[2].reshape(-1)
    total = 0
    for i in range(red.size):
        total += _gray(red[i], green[i], blue[i])
    _scale(image, np.float32(factor), np.float32(total / red.size * (1 - factor)))


@_compiled
def _saturation(image: np.ndarray, factor: float) -> None:
    red, green, blue = image[0].reshape(-1), image[1].reshape(-1), image[2].reshape(-1)
    for i in range(red.size):
        rest = np.float64(_gray(red[i], green[i], blue[i])) * (1 - factor)
        red[i] = _rounded(np.float64(red[i]) * factor + rest)
        green[i] = _rounded(np.float64(green[i]) * factor + rest)
        blue[i] = _rounded(np.float64(blue[i]) * factor + rest)


@_compiled
def _rounded(value: float) -> np.uint8:
    return np.uint8(np.int32(min(max(np.rint(value), 0.0), 255.0)))


@_compiled
def _byte(share: np.float32) -> np.uint8:
    return np.uint8(np.int32(min(max(share * np.float32(255), np.float32(0)), np.float32(255))))


@_compiled
def _hue(image: np.ndarray, factor: float) -> None:
    """To HSV and back, a row at a time: its hues, saturations and values stay in the processor's nearest cache."""
    turned = np.empty(180, np.int32)
    for hue in range(180):
        turned[hue] = np.int32((hue + 180 * factor) % 180.0)
    columns, one = image.shape[2], np.float32(1)
    hues, saturations, values = np.empty(columns, np.int32), np.empty(columns, np.int32), np.empty(columns, np.int32)
    for y in range(image.shape[1]):
        reds, greens, blues = image[0, y], image[1, y], image[2, y]
        for x in range(columns):
            red, green, blue = np.int32(reds[x]), np.int32(greens[x]), np.int32(blues[x])
            value = max(max(red, green), blue)
            spread = value - min(min(red, green), blue)
            angle = red - green + 4 * spread
            angle = blue - red + 2 * spread if value == green else angle
            angle = green - blue if value == red else angle
            hue = (angle * OF_SPREAD[np.uint32(spread)] + 2048) >> 12
            hues[x] = hue + 180 if hue < 0 else hue
            saturations[x] = (spread * OF_VALUE[np.uint32(value)] + 2048) >> 12
            values[x] = value
        for x in range(columns):
            hues[x] = turned[np.uint32(hues[x])]
        for x in range(columns):
            turns = np.float32(hues[x]) * np.float32(6 / 180)
            strength = np.float32(saturations[x]) * np.float32(1 / 255)
            bright = np.float32(values[x]) * np.float32(1 / 255)
            sector = np.int32(turns)
            rest = turns - np.float32(sector)
            top, low = _byte(bright), _byte(bright * (one - strength))
            falling = _byte(bright * (one - strength * rest))
            rising = _byte(bright * (one - strength * (one - rest)))
            # Sector 6 is the first again. Choices without branches: the loop runs on vectors.
            red, green, blue = top, rising, low
            red, green, blue = (falling, top, low) if sector == 1 else (red, green, blue)
            red, green, blue = (low, top, rising) if sector == 2 else (red, green, blue)
            red, green, blue = (low, falling, top) if sector == 3 else (red, green, blue)
            red, green, blue = (rising, low, top) if sector == 4 else (red, green, blue)
            red, green, blue = (top, low, falling) if sector == 5 else (red, green, blue)
            red, green, blue = (top, top, top) if saturations[x] == 0 else (red, green, blue)
            reds[x], greens[x], blues[x] = red, green, blue


@_compiled
def write_patches(image: np.ndarray, size: int, merge: int, times: int, out: np.ndarray) -> None:
    """uint8 ``[3, H, W]`` in [-1, 1] to ``out`` float32 ``[patches, 3 x times x size x size]``: blocks of ``merge`` x
    ``merge`` patches of ``size`` x ``size`` pixels, row by row, each channel ``times`` times.
    """
    number, half = 0, np.float32(127.5)
    for block_row in range(image.shape[1] // (size * merge)):
        for block_column in range(image.shape[2] // (size * merge)):
            for row in range(merge):
                for column in range(merge):
                    top, left = (block_row * merge + row) * size, (block_column * merge + column) * size
                    patch = out[number]
                    number += 1
                    for channel in range(3):
                        for y in range(size):
                            pixels = image[channel, top + y]
                            start = channel * times * size * size + y * size
                            for x in range(size):
                                patch[start + x] = (np.float32(pixels[left + x]) - half) / half
                        first = channel * times * size * size
                        for repeat in range(1, times):
                            for i in range(size * size):
                                patch[first + repeat * size * size + i] = patch[first + i]
