"""The engine's trainer with a stopwatch: when its steps begin, and what its checkpoints cost."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import torch

from trainer.training.finetune_trainer import FinetuneTrainer


class Timed(FinetuneTrainer):
    """Takes the place of ``n15.FinetuneTrainer``, and notes what the last run of the process did."""

    wait: ClassVar[bool] = False
    """Whether a save waits until its checkpoint is written."""
    begun: ClassVar[list[tuple[float, bool]]] = []
    """When each step began, and whether a checkpoint was being written."""
    stood: ClassVar[list[tuple[float, float]]] = []
    """Seconds that a save stopped the training: by the clock, and of its thread's processor time."""
    written: ClassVar[list[float]] = []
    """Seconds from the end of a save to its checkpoint's rename."""

    @classmethod
    def forget(cls) -> None:
        """Start again."""
        cls.begun, cls.stood, cls.written = [], [], []

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        write = self._writer._write

        def timed(name: str, parts: Any) -> None:
            began = time.perf_counter()
            write(name, parts)
            self.written.append(time.perf_counter() - began)

        self._writer._write = timed

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """One micro-batch."""
        pending = self._writer._pending
        self.begun.append((time.perf_counter(), pending is not None and not pending.done()))
        return super().training_step(*args, **kwargs)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        start, cpu = time.perf_counter(), time.thread_time()
        super()._save_checkpoint(model, trial)
        if self.wait:
            self._writer.wait()
        self.stood.append((time.perf_counter() - start, time.thread_time() - cpu))
