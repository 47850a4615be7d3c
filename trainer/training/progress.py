"""Tells the launcher how the training is going, one event per line."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer.events import Event, ProgressEvent, divergence

SECONDS_BETWEEN_EVENTS = 0.5
_WINDOW = 50
"""Steps over which the speed is averaged: short enough to show a change, long enough to be steady."""


class EmitProgress(TrainerCallback):
    """Emits a ``progress`` event at each logged step and, in between, at most twice a second."""

    def __init__(self, emit: Callable[[Event], None]) -> None:
        self._emit = emit
        self._ends: deque[tuple[int, float]] = deque(maxlen=_WINDOW)
        self._last_emitted = 0.0
        self._last_step = -1
        self._loss: float | None = None
        self._lr: float | None = None
        self._warned = False
        self._grad_norm: float | None = None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        now = time.monotonic()
        # The speed is measured from the end of the first step on, which is far slower than those after it.
        self._ends.append((state.global_step, now))
        if now - self._last_emitted >= SECONDS_BETWEEN_EVENTS or state.global_step >= state.max_steps:
            self._send(args, state)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Tell the last step of a stopped training: the run's record counts the steps of these events."""
        if self._ends and self._ends[-1][0] > self._last_step:
            self._send(args, state)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if not logs or "loss" not in logs:
            return
        finite = {name: value for name, value in logs.items() if math.isfinite(value)}
        self._loss, self._lr, self._grad_norm = finite.get("loss"), finite.get("learning_rate"), finite.get("grad_norm")
        if "loss" not in finite and not self._warned and state.is_world_process_zero:
            self._warned = True
            self._emit(divergence(logs["loss"], state.global_step))
        self._send(args, state)

    def _send(self, args: TrainingArguments, state: TrainerState) -> None:
        if not state.is_world_process_zero:
            return
        self._last_emitted, self._last_step = time.monotonic(), state.global_step
        seconds_per_step = 0.0
        if self._ends:
            (first_step, first_time), (last_step, last_time) = self._ends[0], self._ends[-1]
            seconds_per_step = (last_time - first_time) / max(last_step - first_step, 1)
        samples_per_step = args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps
        known = seconds_per_step > 0
        self._emit(
            ProgressEvent(
                step=state.global_step,
                of=state.max_steps,
                loss=self._loss,
                lr=self._lr,
                grad_norm=self._grad_norm,
                epoch=round(state.epoch, 2) if state.epoch is not None else None,
                samples_per_second=round(samples_per_step / seconds_per_step, 2) if known else None,
                eta_seconds=round((state.max_steps - state.global_step) * seconds_per_step, 1) if known else None,
                memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                * (1 if sys.platform == "darwin" else 1024),
                gpu_memory_bytes=torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
            )
        )
