"""Makes videos whose frames say their own number."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path

import av
import numpy as np

BITS = 12


def picture(number: int) -> np.ndarray:
    """A frame with ``number`` in black and white blocks, uint8 ``[48, 64, 3]``."""
    frame = np.full((48, 64, 3), 128, dtype=np.uint8)
    for bit in range(BITS):
        row, column = divmod(bit, 4)
        frame[row * 16 : row * 16 + 16, column * 16 : column * 16 + 16] = 235 if number >> bit & 1 else 20
    return frame


def number_in(frame: np.ndarray) -> int:
    """The number a decoded frame shows."""
    number = 0
    for bit in range(BITS):
        row, column = divmod(bit, 4)
        number |= int(frame[row * 16 + 4 : row * 16 + 12, column * 16 + 4 : column * 16 + 12].mean() > 128) << bit
    return number


@contextlib.contextmanager
def ordinary_priority() -> Generator[None]:
    """For encoding: SVT-AV1, run by root, gives the thread that calls it real-time priority, and leaves it with it.

    What that thread starts later inherits it, and a Go program that spins for a lock (docker compose) then keeps the
    processor forever.
    """
    yield
    if hasattr(os, "sched_setscheduler"):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def write_video(
    path: Path, frames: int, *, codec: str = "libx264", fps: int = 20, gop: int = 250, first: int = 0
) -> Path:
    """Encode ``frames`` pictures, numbered from ``first`` on."""
    options = {"preset": "10", "crf": "20"} if codec == "libsvtav1" else {"preset": "veryfast"}
    with ordinary_priority(), av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=fps, options={**options, "g": str(gop)})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(first, first + frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        container.mux(stream.encode())
    return path


def write_noise(
    path: Path, pixels: str, width: int = 64, height: int = 48, codec: str = "libx264", **colours: int
) -> Path:
    """Encode 20 frames of noise; ``colours`` are attributes of the codec's context."""
    options = {"preset": "ultrafast"} if codec == "libx264" else {}
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=20, options={**options, "g": "4"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        for name, value in colours.items():
            setattr(stream.codec_context, name, value)
        rng = np.random.default_rng(0)
        for _ in range(20):
            noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode())
    return path
