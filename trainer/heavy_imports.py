"""Importing torch and transformers in a program, a third faster: a million objects that stay are not garbage."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def heavy_imports() -> Generator[None]:
    """What is imported meanwhile is not searched for garbage, neither now nor later.

    For programs only: a library leaves the collector to the program that uses it.
    """
    if "torch" in sys.modules:  # imported already: what is here by now may still become garbage
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
