"""Progress out of what Hugging Face's Trainer prints, for engines that print nothing else.

The loss comes as a Python dictionary per line (``{'loss': 0.5, 'grad_norm': 1.2, 'learning_rate': 0.0001, …}``, in
newer versions with the numbers as text), the step only from the progress bar (``5%|▌ | 10/200 [00:05<01:40, …]``).
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable

from trainer.config.finetune_config import LOGGING_STEPS
from trainer.events import Event, ProgressEvent, divergence

_BAR = re.compile(r"\|\s*(\d+)/(\d+)\s*\[")
_ITEM = re.compile(r"'(\w+)':\s*'?([-+\w.]+)'?")


class HfLogParser:
    """Feeds on the lines of both streams of an engine; returns the events they stand for."""

    def __init__(self, max_steps: int, samples_per_step: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._of = max_steps
        self._samples = samples_per_step
        self._clock = clock
        self._lock = threading.Lock()
        self._step = 0
        self._start: tuple[float, int] | None = None
        self._last_event = -math.inf
        self._loss: dict[str, float] = {}
        self._warned = False

    def bar(self, line: str) -> int | None:
        """The step when ``line`` is the training's own progress bar; other bars count something else."""
        match = _BAR.search(line)
        return int(match[1]) if match and int(match[2]) == self._of else None

    def feed(self, line: str) -> list[Event]:
        """The events that ``line`` stands for; a bar at most once a second, a loss line always."""
        with self._lock:
            if (step := self.bar(line)) is not None:
                return self._at(step)
            if line.startswith("{") and line.endswith("}") and "'loss'" in line:
                return self._logged(line)
            return []

    def _at(self, step: int) -> list[Event]:
        now = self._clock()
        if self._start is None or step < self._start[1]:
            self._start = (now, step)
        self._step = step
        if now - self._last_event < 1 and step < self._of:
            return []
        return [self._progress(now)]

    def _logged(self, line: str) -> list[Event]:
        numbers: dict[str, float] = {}
        for name, text in _ITEM.findall(line):
            try:
                numbers[name] = float(text)
            except ValueError:
                continue
        if "loss" not in numbers:
            return []
        events: list[Event] = []
        if not math.isfinite(numbers["loss"]) and not self._warned:
            self._warned = True
            events.append(divergence(numbers["loss"], self._step))
        self._loss = {name: value for name, value in numbers.items() if math.isfinite(value)}
        # The two streams race: the bar may already be a step further than the line's own multiple of ten.
        step = self._step // LOGGING_STEPS * LOGGING_STEPS if self._start else self._step + LOGGING_STEPS
        self._step = min(max(step, LOGGING_STEPS), self._of)
        return [*events, self._progress(self._clock())]

    def _progress(self, now: float) -> ProgressEvent:
        self._last_event = now
        rate = None
        if self._start and self._step > self._start[1] and now > self._start[0]:
            rate = (self._step - self._start[1]) / (now - self._start[0])
        return ProgressEvent(
            step=self._step,
            of=self._of,
            loss=self._loss.get("loss"),
            lr=self._loss.get("learning_rate"),
            grad_norm=self._loss.get("grad_norm"),
            samples_per_second=round(rate * self._samples, 2) if rate else None,
            eta_seconds=round((self._of - self._step) / rate, 1) if rate else None,
        )
