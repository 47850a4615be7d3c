"""What Prefect's pages show of a training: a progress bar, the checkpoints, a report; and one log line per event."""

from __future__ import annotations

import logging
import time
from uuid import UUID

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.logging import get_run_logger

from flows.terminal import size
from trainer.events import (
    CheckpointEvent,
    DoneEvent,
    ErrorEvent,
    EvaluationEvent,
    Event,
    PhaseEvent,
    ProgressEvent,
    SnapshotEvent,
    WarningEvent,
)
from trainer.spec import RunSpec

UPDATE_SECONDS = 5.0

Logger = logging.Logger | logging.LoggerAdapter[logging.Logger]


def log_event(log: Logger, event: Event) -> None:
    """One line of Prefect's log for an event that is no picture."""
    match event:
        case PhaseEvent():
            log.info("%s: %s", event.phase, event.message)
        case EvaluationEvent():
            log.info("Evaluation of step %d: %s", event.step, event.metrics)
        case WarningEvent():
            log.warning("%s %s", event.message, event.hint)
        case ErrorEvent():
            log.error("%s %s", event.message, event.hint)
        case SnapshotEvent():
            log.info("In the store: %s", event.ref)
        case DoneEvent():
            log.info("%s", event.message)


class Artifacts:
    """Turns the events of one run into Prefect artifacts and log lines, inside a flow or task run.

    What goes wrong with Prefect while a training runs is logged and never stops it.
    """

    def __init__(self, spec: RunSpec) -> None:
        self._spec = spec
        self._log = get_run_logger()
        self._progress: UUID | None = None
        self._updated = 0.0
        self._tenth = -1
        self._checkpoints: list[dict[str, object]] = []

    def __call__(self, event: Event) -> None:
        """Record ``event``."""
        try:
            self._record(event)
        except Exception as error:  # the training matters more than its picture
            self._log.warning("Prefect did not take an artifact: %s", error)

    def report(self, markdown: str, wandb_url: str | None) -> None:
        """Record the final report, and a link to the W&B run when there is one."""
        try:
            create_markdown_artifact(markdown, key=f"{self._spec.run_id}-report", description="Report")
            if wandb_url:
                create_link_artifact(wandb_url, "W&B run", key=f"{self._spec.run_id}-wandb", description="W&B run")
        except Exception as error:
            self._log.warning("Prefect did not take the report: %s", error)

    def _record(self, event: Event) -> None:
        match event:
            case ProgressEvent():
                self._step(event)
            case CheckpointEvent():
                self._checkpoint(event)
            case _:
                log_event(self._log, event)

    def _step(self, event: ProgressEvent) -> None:
        percent = 100 * event.step / max(event.of, 1)
        now = time.monotonic()
        if self._progress is None:
            created = create_progress_artifact(
                percent, key=f"{self._spec.run_id}-progress", description=f"Training {self._spec.run_id}"
            )
            assert isinstance(created, UUID)  # noqa: S101 - in sync code it is no coroutine
            self._progress = created
        elif now - self._updated >= UPDATE_SECONDS or event.step >= event.of:
            self._updated = now
            update_progress_artifact(self._progress, percent)
        if int(percent / 10) > self._tenth:
            self._tenth = int(percent / 10)
            loss = f", loss {event.loss:.4f}" if event.loss is not None else ""
            self._log.info("Step %d of %d%s", event.step, event.of, loss)

    def _checkpoint(self, event: CheckpointEvent) -> None:
        name = f"{self._spec.run_id}/{event.step}"
        self._checkpoints.append(
            {
                "checkpoint": name,
                "digest": event.digest[:12],
                "uploaded": size(event.bytes_uploaded),
                "seconds": round(event.seconds, 1),
            }
        )
        self._log.info("Checkpoint %s registered (%s uploaded)", name, size(event.bytes_uploaded))
        create_table_artifact(
            self._checkpoints, key=f"{self._spec.run_id}-checkpoints", description="Checkpoints registered"
        )
