"""Finds what makes the host wait for the GPU while it should hand it more to do."""

from __future__ import annotations

import warnings
from collections import Counter
from types import TracebackType

import torch


class Waits:
    """A context in which every wait for the GPU is counted by the line of code that waits; nothing without a GPU."""

    def __init__(self) -> None:
        self.places: Counter[str] = Counter()
        self._catching = warnings.catch_warnings(record=True)

    def __enter__(self) -> Waits:
        self._caught = self._catching.__enter__()
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("warn")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("default")
        self._catching.__exit__(kind, error, trace)
        for each in self._caught or ():
            if "called a synchronizing" in str(each.message):
                self.places[f"{each.filename.rpartition('site-packages/')[2]}:{each.lineno}"] += 1
