"""Stopping early and well: a signal ends the training after the current step, with a checkpoint."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class StopOnSignal(TrainerCallback):
    """On SIGTERM or SIGINT: finish the step, save, stop. ``received`` is the signal, or None.

    Until the training loop runs there is nothing worth saving, and the process ends at once; so it does after
    ``release``, when all is written.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._training = False
        self._ranks: Any = None  # torch calls the type of a group a process is not in an int
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        if not self._training:
            raise SystemExit(128 + number)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._training = True
        if args.world_size > 1:
            # Between the processes, not the GPUs: asking a GPU at each step would keep its queue empty.
            self._ranks = torch.distributed.new_group(backend="gloo")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        stop = self.received is not None
        if args.world_size > 1:
            # Signals reach the ranks at different steps; a rank that stops alone leaves the others waiting for ever.
            flag = torch.tensor(int(stop))
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX, group=self._ranks)
            stop = bool(flag.item())
        if stop:
            control.should_save = True
            control.should_training_stop = True

    def release(self) -> None:
        """From now on a signal ends the process at once again."""
        self._training = False
