"""Importing what brings hundreds of thousands of objects with it, such as torch: they stay, and so are no garbage."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def heavy_imports() -> Generator[None]:
    """What is imported meanwhile is not searched for garbage, neither now nor later; once in a process.

    For programs only: a library leaves the collector to the program that uses it.
    """
    if gc.get_freeze_count():  # what was made since the first time may become garbage
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        # At the end they are collected: libraries report what is left then as leaks.
        atexit.register(gc.unfreeze)
