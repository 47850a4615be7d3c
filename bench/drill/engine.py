"""The engine as ``trainer run`` starts it, with a stopwatch: ``python -m bench.drill.engine FILE [--flag …]``.

What is noted goes into FILE, as JSON, when the training ends.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from bench.loops.timed import Timed
from trainer.cli import main as trainer
from trainer.training import n15, n17

PIN_AT = 3
"""After this step the memory for checkpoints is made, so that every save is measured as one that finds it there."""


class Patient(Timed):
    """Saves when the checkpoint before is on the disk: a drill saves more often than a disk can write."""

    pinned: float = 0.0
    waited: list[tuple[int, float]]
    """Before which step, and for how many seconds."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        Patient.waited = []
        self.add_callback(_Watch(self))

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        began = time.perf_counter()
        self._writer.wait()
        self.waited.append((len(self.begun), time.perf_counter() - began))
        super()._save_checkpoint(model, trial)

    def pin(self) -> None:
        """Copy what a checkpoint holds, and throw the copy away."""
        began = time.perf_counter()
        state, trained = self._weights
        self._copies.take("weights", {name: each for name, each in state.items() if name in trained})
        assert self.optimizer is not None
        self._copies.take("optimizer", self.optimizer.state_dict())
        self._copies.begin()
        self._copies.finish()
        Patient.pinned = time.perf_counter() - began


class _Watch(TrainerCallback):
    """Notes the memory after each step."""

    host: list[int]
    device: list[int]

    def __init__(self, trainer: Patient) -> None:
        self._trainer = trainer
        _Watch.host, _Watch.device = [], []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002 - called by name
        """Called after each step."""
        if state.global_step == PIN_AT:
            self._trainer.pin()
        _Watch.host.append(resident())
        _Watch.device.append(torch.cuda.memory_allocated() if torch.cuda.is_available() else 0)


def resident() -> int:
    """Bytes of host memory that this process has now; at most so far, where the system does not tell."""
    status = Path("/proc/self/status")
    if status.is_file():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmRSS"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Train as the flags say, and exit as the engine does."""
    n15.FinetuneTrainer = n17.FinetuneTrainer = Patient  # pyrefly: ignore
    try:
        trainer(["finetune", *sys.argv[2:]])
    finally:
        noted = {
            "begun": [when for when, _ in Timed.begun],
            "stood": [seconds for seconds, _ in Timed.stood],
            "written": Timed.written,
            "waited": getattr(Patient, "waited", []),
            "pinned": Patient.pinned,
            "host": getattr(_Watch, "host", []),
            "device": getattr(_Watch, "device", []),
        }
        Path(sys.argv[1]).write_text(json.dumps(noted))


if __name__ == "__main__":
    main()
