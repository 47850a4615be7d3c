"""What Prefect gets of a training: a progress bar, the checkpoints, a report; one log line per event, and each event.

The events are for those who follow the run from elsewhere (``flows.orchestration.remote``).
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import queue
import re
import threading
import time
from collections.abc import Callable, Generator
from uuid import UUID

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.events import emit_event
from prefect.logging import get_run_logger

from flows.views.terminal import figures, size
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

UPDATE_SECONDS = 5.0
WAITING_EVENTS = 1000
"""Events that may wait for Prefect; more are dropped."""
CATCH_UP_SECONDS = 60.0
"""How long a training that is done waits for Prefect to take what it has not yet."""
EVENT = "pippa.training"
"""What Prefect calls an event of the trainer."""

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


def resource_of(run_id: str) -> str:
    """What the events of a run concern, in Prefect's terms."""
    return f"pippa.run.{run_id}"


def publish(run_id: str, event: Event) -> None:
    """Give ``event`` to those who follow the run through Prefect's API. Returns at once."""
    resource = {"prefect.resource.id": resource_of(run_id), "prefect.resource.name": run_id}
    emit_event(EVENT, resource, occurred=event.time, payload=event.model_dump(mode="json", exclude_none=True))


def key_of(name: str) -> str:
    """``name`` as Prefect takes a key: small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


class Artifacts:
    """Turns the events of one run into Prefect artifacts and log lines, inside a flow or task run.

    What goes wrong with Prefect while a training runs is logged and never stops it.
    """

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._log = get_run_logger()
        self._progress: UUID | None = None
        self._updated = 0.0
        self._tenth = -1
        self._checkpoints: list[dict[str, object]] = []

    def __call__(self, event: Event) -> None:
        """Record ``event``."""
        try:
            if not isinstance(event, ProgressEvent):  # of those, a few
                publish(self._run_id, event)
            self._record(event)
        except Exception as error:  # the training matters more than its picture
            self._log.warning("Prefect did not take an artifact: %s", error)

    def report(self, markdown: str, wandb_url: str | None) -> None:
        """Record the final report, and a link to the W&B run when there is one."""
        try:
            # The run's page shows the description: the verdict.
            verdict = next((line.strip("*") for line in markdown.splitlines() if line.startswith("**")), "")
            create_markdown_artifact(markdown, key=f"{self._run_id}-report", description=f"Report. {verdict}")
            if wandb_url:
                create_link_artifact(wandb_url, "W&B run", key=f"{self._run_id}-wandb", description="W&B run")
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
                percent, key=f"{self._run_id}-progress", description=f"Training {self._run_id}"
            )
            assert isinstance(created, UUID)  # noqa: S101 - in sync code it is no coroutine
            self._progress = created
            publish(self._run_id, event)
        elif now - self._updated >= UPDATE_SECONDS or event.step >= event.of:
            self._updated = now
            shown = f"{self._run_id}: step {event.step} of {event.of}  {figures(event, event.loss)}"
            update_progress_artifact(self._progress, percent, description=shown)
            publish(self._run_id, event)
        if int(percent / 10) > self._tenth:
            self._tenth = int(percent / 10)
            loss = f", loss {event.loss:.4f}" if event.loss is not None else ""
            self._log.info("Step %d of %d%s", event.step, event.of, loss)

    def _checkpoint(self, event: CheckpointEvent) -> None:
        name = f"{self._run_id}/{event.step}"
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
            self._checkpoints, key=f"{self._run_id}-checkpoints", description="Checkpoints registered"
        )


@contextlib.contextmanager
def in_background(record: Callable[[Event], None]) -> Generator[Callable[[Event], None]]:
    """Call ``record`` with each event in a thread, inside this flow run, so that a training never waits for Prefect.

    Prefect's client tries again for a minute when its server is away. What it has not taken ``CATCH_UP_SECONDS`` after
    the end is dropped, with one warning in the log.
    """
    waiting: queue.Queue[Event | None] = queue.Queue(WAITING_EVENTS)
    dropped = 0

    def work() -> None:
        for event in iter(waiting.get, None):
            record(event)

    def observe(event: Event) -> None:
        nonlocal dropped
        try:
            waiting.put_nowait(event)
        except queue.Full:
            dropped += 1

    # In a copy of the context: artifacts and log lines belong to the flow run that they find there.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), name="prefect-events", daemon=True)
    thread.start()
    try:
        yield observe
    finally:
        with contextlib.suppress(queue.Full):
            waiting.put(None, timeout=CATCH_UP_SECONDS)
        thread.join(CATCH_UP_SECONDS)
        if dropped or thread.is_alive():
            get_run_logger().warning("Prefect did not take %d events of this run.", dropped + waiting.qsize())
