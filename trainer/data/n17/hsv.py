"""OpenCV's way to 8-bit HSV: tables of its divisions, in 4096ths."""

from __future__ import annotations

import numpy as np

_DIVISORS = np.maximum(np.arange(256), 1)
OF_VALUE = np.rint(255 * 4096 / _DIVISORS).astype(np.int32)
"""By a pixel's value: its largest channel."""
OF_SPREAD = np.rint(180 * 4096 / (6.0 * _DIVISORS)).astype(np.int32)
"""By a pixel's spread, the difference of its largest and its smallest channel."""
