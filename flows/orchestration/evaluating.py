"""An evaluation on this machine, by the chosen launcher, on a GPU of its own."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from flows.launch import GPU_VARIABLE, Job, LauncherName, gpu_locks, machine
from flows.launch.follow import failure, follow
from flows.launch.launchers import get_launcher
from flows.settings import stop_grace
from trainer.events import EvaluationEvent, Event, PhaseEvent


def evaluation_job(name: str, arguments: Sequence[str], labels: Mapping[str, str]) -> Job:
    """The job ``trainer evaluate --checkpoint …`` with these further arguments."""
    return Job(
        name=name,
        role="evaluate",
        arguments=["evaluate", "--checkpoint", *arguments],
        gpus=True,
        labels=dict(labels),
    )


def evaluate_here(
    launcher: LauncherName,
    home: Path,
    arguments: Sequence[str],
    environ: Mapping[str, str],
    observe: Callable[[Event], None],
) -> list[EvaluationEvent]:
    """Evaluate, and return what came out, in the order of the checkpoints; ``observe`` hears of every event.

    Waits for a GPU that a training holds. Raises the trainer's ``PippaError``, and ``KeyboardInterrupt``.
    """
    name = f"evaluate-{secrets.token_hex(6)}"
    job = evaluation_job(name, arguments, {"run-id": name})
    found: list[EvaluationEvent] = []

    def note(event: Event) -> None:
        observe(event)
        if isinstance(event, EvaluationEvent):
            found.append(event)

    def say(line: str) -> None:
        observe(PhaseEvent(phase="wait", message=line))

    place = get_launcher(launcher, home)
    place.image(job.engine, say)
    with gpu_locks.held(home, name, machine.gpus(launcher), 1, machine.trainings_per_gpu(), say) as gpus:
        chosen = {GPU_VARIABLE[launcher]: ",".join(gpus)} if gpus else {}
        training = place.start(job, {**environ, **chosen})
        outcome = follow(training, note, stop_grace())
    if outcome.interrupted:
        raise KeyboardInterrupt
    if error := failure(outcome, training):
        raise error
    return found
