"""What a training says while it runs: one JSON object per line on stdout, each with ``event`` and ``time``.

Launchers turn these lines into progress bars and Prefect artifacts; logs for people go to stderr.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TextIO

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from trainer.config.run_spec import SnapshotRef


class _Event(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)

    time: datetime = Field(default_factory=lambda: datetime.now(UTC))


class PhaseEvent(_Event):
    """The run entered a phase: ``prepare``, ``check``, ``load``, ``train``, ``evaluate``, ``upload`` …"""

    event: Literal["phase"] = "phase"
    phase: str
    message: str = ""
    done: int | None = None
    of: int | None = None
    """How far it is, where that can be counted: an evaluation in episodes, also those with an input taken away."""


class ProgressEvent(_Event):
    """A training step ended. ``loss``, ``lr`` and ``grad_norm`` are those of the last logged step."""

    event: Literal["progress"] = "progress"
    step: int
    of: int
    loss: float | None = None
    lr: float | None = None
    grad_norm: float | None = None
    epoch: float | None = None
    """Times the data was gone through; a share of them at first."""
    samples_per_second: float | None = None
    eta_seconds: float | None = None
    memory_bytes: int | None = None
    """The most memory that the engine's process has had so far."""
    gpu_memory_bytes: int | None = None
    """The most that its tensors have had of the GPU so far; None on a CPU."""


class SavedEvent(_Event):
    """The native engine's word to the process that started it: ``checkpoint-<step>`` is whole on this disk."""

    event: Literal["saved"] = "saved"
    step: int


class CheckpointEvent(_Event):
    """A checkpoint is complete and verified in the registry."""

    event: Literal["checkpoint"] = "checkpoint"
    step: int
    digest: str
    bytes_uploaded: int
    seconds: float


class EvaluationEvent(_Event):
    """An open-loop evaluation of a checkpoint ended; metrics are in the action's raw units."""

    event: Literal["evaluation"] = "evaluation"
    step: int
    metrics: dict[str, float]
    checkpoint: str = ""
    """Its name in the registry."""
    on: str = ""
    """What the metrics rest on, such as ``5 training episodes``."""
    full: bool = True
    """By the full protocol, or on the fewer episodes that intermediate checkpoints are compared on."""
    evaluation: dict[str, Any] | None = None
    """All figures (``trainer.store.evaluation``): per joint, per episode, ablations."""


class WarningEvent(_Event):
    """Something went wrong that does not stop the run."""

    event: Literal["warning"] = "warning"
    message: str
    hint: str = ""


def divergence(loss: float, step: int) -> WarningEvent:
    """The warning that a training's loss is no number any more, seen near ``step``."""
    return WarningEvent(
        message=f"The loss is {loss} near step {step}.",
        hint="The training has diverged: stop it and lower --learning-rate, or raise --warmup-ratio.",
    )


class ErrorEvent(_Event):
    """What ends the run. ``code`` is the exit code that follows."""

    event: Literal["error"] = "error"
    code: int
    message: str
    hint: str = ""


class SnapshotEvent(_Event):
    """The dataset or base model of ``trainer prepare`` is in the store."""

    event: Literal["snapshot"] = "snapshot"
    ref: SnapshotRef


class DoneEvent(_Event):
    """The run ended well."""

    event: Literal["done"] = "done"
    message: str = ""


Event = Annotated[
    PhaseEvent
    | ProgressEvent
    | SavedEvent
    | CheckpointEvent
    | EvaluationEvent
    | WarningEvent
    | ErrorEvent
    | SnapshotEvent
    | DoneEvent,
    Field(discriminator="event"),
]
_ADAPTER: TypeAdapter[Event] = TypeAdapter(Event)


def parse_event(line: str) -> Event | None:
    """The event on ``line``, or None when the line is something else (a library's own print, half a line)."""
    if not line.startswith("{"):
        return None
    try:
        return _ADAPTER.validate_json(line)
    except ValidationError:
        return None


def every(seconds: float, show: Callable[[int, int], None]) -> Callable[[int, int], None]:
    """``show`` for progress that comes often: called at most every ``seconds``, and not before so much time is over."""
    last = time.monotonic()

    def progress(done: int, of: int) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            show(done, of)

    return progress


class Emitter:
    """Writes events as whole lines, from any thread."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stdout
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Write ``event`` as one line and flush it."""
        line = json.dumps(event.model_dump(mode="json", exclude_none=True), separators=(",", ":"))
        with self._lock:
            self._stream.write(line + "\n")
            self._stream.flush()
