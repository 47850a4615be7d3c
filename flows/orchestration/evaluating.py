"""An evaluation on this machine, by the chosen launcher, on a GPU that it holds."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from flows.launch import GPU_VARIABLE, Job, LauncherName, gpu_locks, machine
from flows.launch.follow import failure, follow
from flows.launch.launchers import get_launcher
from flows.settings import stop_grace
from trainer import importers
from trainer.errors import UsageError
from trainer.events import EvaluationEvent, Event, PhaseEvent
from trainer.store import registry
from trainer.store.closed_loop import TRIALS
from trainer.store.object_store import ObjectStore


def open_loop(
    names: Sequence[str],
    *,
    all_of_run: bool = False,
    dataset: str | None = None,
    episodes: Sequence[int] | None = None,
    ablations: bool = True,
) -> list[str]:
    """The arguments of an open-loop evaluation."""
    options = [*names, *(["--all"] if all_of_run else [])]
    options += ["--dataset", dataset] if dataset else []
    options += ["--episodes", *map(str, episodes)] if episodes else []
    return options if ablations else [*options, "--no-ablations"]


def closed_loop(
    names: Sequence[str], *, all_of_run: bool = False, trials: int | None = None, seed: int | None = None
) -> list[str]:
    """The arguments of a closed-loop evaluation. Raises ``UsageError`` for numbers that make no trial."""
    options = [*names, *(["--all"] if all_of_run else []), "--closed-loop"]
    for flag, value, least in (("--trials", trials, 1), ("--seed", seed, 0)):
        if value is not None and value < least:
            raise UsageError(f"{flag} {value}: it must be {least} or more.", f"The usual is {flag} {TRIALS * least}.")
        options += [] if value is None else [flag, str(value)]
    return options


def require_known(store: ObjectStore, names: Sequence[str], dataset: str | None = None) -> None:
    """Raise ``UsageError`` for a checkpoint or dataset that the store has not, before anything starts."""
    for name in names:
        registry.resolve(store, name)
    if dataset:
        importers.existing(store, dataset)


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
