"""Stopping early and well: a signal ends the training after the current step, with a checkpoint."""

from __future__ import annotations

from signal import Signals
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer.training.stop_signal import StopSignal


class StopOnSignal(TrainerCallback):
    """When ``signal`` was received: finish the step, save, stop. It is held once the training loop runs."""

    def __init__(self, signal: StopSignal) -> None:
        self._signal = signal
        self._ranks: Any = None  # torch calls the type of a group a process is not in an int

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._signal.hold()
        if args.world_size > 1:
            # Between the processes, not the GPUs: asking a GPU at each step would keep its queue empty.
            self._ranks = torch.distributed.new_group(backend="gloo")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if args.world_size > 1:
            # Signals reach the ranks at different steps, and perhaps one machine only; a rank that stops alone leaves
            # the others waiting forever.
            number = torch.tensor(int(self._signal.received or 0))
            torch.distributed.all_reduce(number, op=torch.distributed.ReduceOp.MAX, group=self._ranks)
            if number.item():
                self._signal.received = Signals(int(number.item()))
        if self._signal.received is not None:
            control.should_save = True
            control.should_training_stop = True
