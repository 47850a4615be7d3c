"""Training's image transform on a CPU: one pass over an image per operation, compiled by numba.

torch takes seven to thirty passes for each, several times as long, and when other processes want the same cores its
threads wait for each other at every one. These kernels run without the interpreter's lock, one image to a thread.
"""

from __future__ import annotations

import os
from functools import lru_cache

import numpy as np
import torch
from torchvision.transforms.v2 import functional

from trainer.config.settings import pippa_home

# Compiled once per machine. Beside the source, numba's own choice, an image has no place to write.
os.environ.setdefault("NUMBA_CACHE_DIR", str(pippa_home() / "cache" / "numba"))

import numba

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)

# Sums may be taken in another order and products fused; numbers that are not finite don't occur.
_compiled = numba.njit(nogil=True, cache=True, fastmath=True)


@lru_cache(maxsize=16)
def taps(source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """How torch resizes ``source`` pixels to ``target`` with antialiasing, read off an identity matrix.

    Output pixel i is the sum of ``weights[i]`` times the input pixels from ``first[i]`` on; int64 ``[target]`` and
    float32 ``[target, taps]``.
    """
    matrix = functional.resize(torch.eye(source)[None], [target, source], antialias=True)[0].numpy()
    used = matrix != 0
    last = source - 1 - used[:, ::-1].argmax(axis=1)
    width = int((last - used.argmax(axis=1)).max()) + 1
    first = np.minimum(used.argmax(axis=1), source - width).astype(np.int64)
    return first, np.take_along_axis(matrix, first[:, None] + np.arange(width), axis=1).astype(np.float32)


@_compiled
def transform(
    frame: np.ndarray,
    rows: tuple[np.ndarray, np.ndarray],
    columns: tuple[np.ndarray, np.ndarray],
    order: np.ndarray,
    factors: np.ndarray,
    out: np.ndarray,
) -> None:
    """Resize a cropped frame, uint8 ``[H, W, 3]``, with ``taps`` of its rows and columns, jitter it, and write the
    pixel values in [-1, 1] to ``out``, float32 ``[3, S, S]``.
    """
    _resize(frame, rows, columns, out)
    image = out.reshape(3, -1)
    for operation in order:
        factor = factors[operation]
        if operation == BRIGHTNESS:
            _brightness(image, factor)
        elif operation == CONTRAST:
            _contrast(image, factor)
        elif operation == SATURATION:
            _saturation(image, factor)
        else:
            _hue(image, factor)
    # Upstream truncates to bytes in between.
    flat = image.reshape(-1)
    for i in range(flat.size):
        flat[i] = np.floor(flat[i]) * np.float32(1 / 127.5) - np.float32(1)


@_compiled
def _resize(
    frame: np.ndarray, rows: tuple[np.ndarray, np.ndarray], columns: tuple[np.ndarray, np.ndarray], out: np.ndarray
) -> None:
    first_row, row_weights = rows
    first_column, column_weights = columns
    source = frame.reshape(frame.shape[0], -1)
    line = np.empty(source.shape[1], dtype=np.float32)
    for y in range(out.shape[1]):
        line[:] = 0
        for tap in range(row_weights.shape[1]):
            weight, pixels = row_weights[y, tap], source[first_row[y] + tap]
            for i in range(line.size):
                line[i] += weight * np.float32(pixels[i])
        for x in range(out.shape[2]):
            red = green = blue = np.float32(0)
            start = first_column[x] * 3
            for tap in range(column_weights.shape[1]):
                weight, i = column_weights[x, tap], start + 3 * tap
                red += weight * line[i]
                green += weight * line[i + 1]
                blue += weight * line[i + 2]
            out[0, y, x] = red
            out[1, y, x] = green
            out[2, y, x] = blue


@_compiled
def _gray(red: np.float32, green: np.float32, blue: np.float32) -> np.float32:
    """As torchvision weighs the channels."""
    return np.float32(0.2989) * red + np.float32(0.587) * green + np.float32(0.114) * blue


@_compiled
def _bounded(value: np.float32) -> np.float32:
    return min(max(value, np.float32(0)), np.float32(255))


@_compiled
def _brightness(image: np.ndarray, factor: np.float32) -> None:
    flat = image.reshape(-1)
    for i in range(flat.size):
        flat[i] = _bounded(flat[i] * factor)


@_compiled
def _contrast(image: np.ndarray, factor: np.float32) -> None:
    red, green, blue = image[0], image[1], image[2]
    total = 0.0
    for i in range(red.size):
        total += _gray(red[i], green[i], blue[i])
    rest = np.float32(total / red.size) * (np.float32(1) - factor)
    flat = image.reshape(-1)
    for i in range(flat.size):
        flat[i] = _bounded(flat[i] * factor + rest)


@_compiled
def _saturation(image: np.ndarray, factor: np.float32) -> None:
    red, green, blue = image[0], image[1], image[2]
    for i in range(red.size):
        rest = _gray(red[i], green[i], blue[i]) * (np.float32(1) - factor)
        red[i] = _bounded(red[i] * factor + rest)
        green[i] = _bounded(green[i] * factor + rest)
        blue[i] = _bounded(blue[i] * factor + rest)


@_compiled
def _hue(image: np.ndarray, factor: np.float32) -> None:
    """The formula of ``trainer.data.transforms.augment``'s ``_turn_hue``."""
    first, second, third = image[0], image[1], image[2]
    if factor < 0:
        second, third = third, second
    turn = np.float32(6) * abs(factor)
    for i in range(first.size):
        a, b, c = first[i], second[i], third[i]
        low, high = min(min(a, b), c), max(max(a, b), c)
        shift = (high - low) * turn
        falling, rising = low + high - shift, low + shift
        first[i] = min(max(max(falling - c, rising) + a - b, low), high)
        second[i] = min(max(max(falling - a, rising) + b - c, low), high)
        third[i] = min(max(max(falling - b, rising) + c - a, low), high)
