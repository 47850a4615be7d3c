"""The sums of ``trainer.data.n17.area``, compiled by numba: in numpy each tap is a pass over the whole image.

Sums keep their order and products are not fused: the results are OpenCV's, bit for bit.
"""

from __future__ import annotations

import os

import numpy as np

from trainer.config.settings import pippa_home

# Compiled once per machine. Beside the source, numba's own choice, an image has no place to write.
os.environ.setdefault("NUMBA_CACHE_DIR", str(pippa_home() / "cache" / "numba"))

import numba

_compiled = numba.njit(nogil=True, cache=True)


@_compiled
def shrunk(
    image: np.ndarray,
    row_positions: np.ndarray,
    row_weights: np.ndarray,
    column_positions: np.ndarray,
    column_weights: np.ndarray,
) -> np.ndarray:
    """uint8 ``[H, W, C]`` to uint8 ``[h, w, C]``: weighted float32 sums along the rows, then down the columns.

    Positions and weights are ``[K, h]`` and ``[K, w]``.
    """
    height, _, channels = image.shape
    rows, columns = row_positions.shape[1], column_positions.shape[1]
    lines = np.zeros((height, columns, channels), np.float32)
    for y in range(height):
        for x in range(columns):
            for tap in range(column_positions.shape[0]):
                source, weight = column_positions[tap, x], column_weights[tap, x]
                for channel in range(channels):
                    lines[y, x, channel] += np.float32(image[y, source, channel]) * weight
    out = np.empty((rows, columns, channels), np.uint8)
    total = np.empty((columns, channels), np.float32)
    for y in range(rows):
        total[:] = 0
        for tap in range(row_positions.shape[0]):
            source, weight = row_positions[tap, y], row_weights[tap, y]
            for x in range(columns):
                for channel in range(channels):
                    total[x, channel] += lines[source, x, channel] * weight
        for x in range(columns):
            for channel in range(channels):
                out[y, x, channel] = np.uint8(np.rint(total[x, channel]))
    return out


@_compiled
def enlarged(
    image: np.ndarray,
    row_positions: np.ndarray,
    row_weights: np.ndarray,
    column_positions: np.ndarray,
    column_weights: np.ndarray,
) -> np.ndarray:
    """uint8 ``[H, W, C]`` to uint8 ``[h, w, C]``: between two pixels each way, in 2048ths.

    Positions and int32 weights are ``[2, h]`` and ``[2, w]``.
    """
    channels = image.shape[2]
    rows, columns = row_positions.shape[1], column_positions.shape[1]
    lines = np.empty((image.shape[0], columns, channels), np.int32)
    for y in range(image.shape[0]):
        for x in range(columns):
            left, right = column_positions[0, x], column_positions[1, x]
            for channel in range(channels):
                lines[y, x, channel] = (
                    np.int32(image[y, left, channel]) * column_weights[0, x]
                    + np.int32(image[y, right, channel]) * column_weights[1, x]
                ) >> 4
    out = np.empty((rows, columns, channels), np.uint8)
    for y in range(rows):
        upper, lower = row_positions[0, y], row_positions[1, y]
        for x in range(columns):
            for channel in range(channels):
                above = (row_weights[0, y] * lines[upper, x, channel]) >> 16
                below = (row_weights[1, y] * lines[lower, x, channel]) >> 16
                out[y, x, channel] = np.uint8(min(max((above + below + 2) >> 2, 0), 255))
    return out
