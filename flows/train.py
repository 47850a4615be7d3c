"""The flow ``train``: behind every way to start a training, from the resolved preset to the report.

Its parameters are plain JSON, so that a deployment, a schedule and the command line start the same thing. Everything
that a training leaves is in the object store: no Prefect result is persisted and nothing is cached by Prefect.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from prefect import flow, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.logging import get_run_logger
from prefect.states import Cancelled
from prefect.tasks import Task
from pydantic import ValidationError

from flows.artifacts import Artifacts, log_event
from flows.follow import can_heal, failure, follow
from flows.launch import LauncherName, get_launcher, training_job
from flows.report import build_report, to_markdown
from flows.settings import stop_grace
from flows.sources import bring
from trainer.argv import Provenance, flag
from trainer.config import FinetuneConfig
from trainer.errors import UsageError
from trainer.events import Event, PhaseEvent, WarningEvent
from trainer.prepare import engine_from, new_spec
from trainer.presets import Preset, get_preset
from trainer.settings import StoreSettings, pippa_home
from trainer.spec import RunSpec, SnapshotRef, new_run_id
from trainer.store import runs
from trainer.store.client import ObjectStore

RETRY_SECONDS: list[float] = [5, 20, 60]

OBSERVER: ContextVar[Callable[[Event], None] | None] = ContextVar("observer", default=None)
"""Whoever started the flow in this process and wants to see the trainer's events: the terminal."""


def _flow_run_name() -> str:
    parameters = runtime.flow_run.parameters
    return parameters.get("run_id") or parameters["preset"]


@flow(name="train", flow_run_name=_flow_run_name, persist_result=False, validate_parameters=True)
def train(
    preset: str,
    overrides: dict[str, Any] | None = None,
    launcher: LauncherName = "process",
    run_id: str | None = None,
) -> Any:
    """Train ``preset`` with ``overrides`` (fields of ``FinetuneConfig``), and report.

    A ``run_id`` that the object store knows is continued from its last checkpoint, with the spec it was started with.
    Returns the run's summary. Raises the trainer's ``PippaError``; Ctrl-C ends in the state Cancelled.
    """
    try:
        store = ObjectStore(StoreSettings.from_environ())
        store.ensure_bucket()
        spec = _spec(store, preset, overrides or {}, launcher, run_id)
        interrupted = run_training(spec.run_id, launcher)
    except KeyboardInterrupt:
        return Cancelled(message="Stopped by Ctrl-C.")
    report = build_report(store, spec.run_id)
    Artifacts(spec).report(to_markdown(report), report.wandb_url)
    if interrupted:
        return Cancelled(message="Stopped by Ctrl-C; it saved and can be continued.")
    return report.model_dump(mode="json")


def resolve(preset_name: str, overrides: dict[str, Any]) -> tuple[Preset, FinetuneConfig, Provenance]:
    """The preset with ``overrides`` applied, validated. Raises ``UsageError`` naming each field that is wrong."""
    preset = get_preset(preset_name)
    values = {name: argument.value for name, argument in preset.arguments.items()}
    try:
        config = FinetuneConfig.model_validate({**values, **overrides})
    except ValidationError as error:
        problems = [f"{flag(str(e['loc'][0]))}: {e['msg']} (got {e['input']!r})" for e in error.errors()]
        raise UsageError("\n".join(problems), "`pippa train PRESET --help` explains every field.") from None
    provenance: Provenance = {
        name: "flag" if name in overrides else "preset" if name in preset.arguments else "default"
        for name in FinetuneConfig.model_fields
    }
    return preset, config, provenance


def _spec(
    store: ObjectStore, preset_name: str, overrides: dict[str, Any], launcher: LauncherName, run_id: str | None
) -> RunSpec:
    """The stored spec of ``run_id``, or a new one with everything it needs in the store."""
    if run_id is not None and runs.read_file(store, run_id, "spec.json") is not None:
        known = runs.read_spec(store, run_id)
        if known.preset != preset_name or overrides:
            raise UsageError(
                f"{run_id} exists already, as a run of {known.preset}.",
                f"`pippa runs resume {run_id}` continues it as it was; leave the run id out for a new run.",
            )
        get_launcher(launcher, pippa_home()).require(known.config)
        return known
    preset, config, provenance = resolve(preset_name, overrides)
    observe, engine, run_id = _observe(), engine_from(), run_id or new_run_id(preset.name)
    place = get_launcher(launcher, pippa_home())
    place.require(config)
    image = place.image(engine, lambda line: observe(PhaseEvent(phase="prepare", message=line)))
    observe(PhaseEvent(phase="prepare", message="Looking for dataset and base model in the store."))
    # The datasets first: a bad one is refused before a base model of gigabytes is fetched.
    datasets = [ensure_dataset(name, config.data_config, launcher, run_id) for name in config.dataset_path]
    base_model = ensure_base_model(config.base_model_path, launcher, run_id)
    spec = new_spec(preset, config, provenance, datasets, base_model, engine, run_id=run_id, image=image)
    runs.write_spec(store, spec)
    return spec


@task(name="dataset", task_run_name="dataset {name}", persist_result=False, cache_policy=NO_CACHE)
def ensure_dataset(name: str, data_config: str, launcher: LauncherName, run_id: str) -> SnapshotRef:
    """The snapshot of a dataset, made or pushed into the store for ``run_id`` unless it is there."""
    return bring("dataset", name, launcher, run_id, data_config=data_config, observe=_observe())


@task(name="base model", task_run_name="base model {name}", persist_result=False, cache_policy=NO_CACHE)
def ensure_base_model(name: str, launcher: LauncherName, run_id: str) -> SnapshotRef:
    """The snapshot of a base model, made or pushed into the store for ``run_id`` unless it is there."""
    return bring("model", name, launcher, run_id, observe=_observe())


def _observe() -> Callable[[Event], None]:
    """What happens before a run has a spec: into Prefect's log, and to whoever started the flow here."""
    log, observer = get_run_logger(), OBSERVER.get()

    def observe(event: Event) -> None:
        log_event(log, event)
        if observer:
            observer(event)

    return observe


def _retry(_task: Task[Any, Any], _run: TaskRun, state: State[Any]) -> bool:
    error = state.data if isinstance(state.data, BaseException) else state.result(raise_on_failure=False)
    return isinstance(error, BaseException) and can_heal(error)


@task(
    name="training",
    task_run_name="training {run_id}",
    persist_result=False,
    cache_policy=NO_CACHE,
    retries=len(RETRY_SECONDS),
    retry_delay_seconds=RETRY_SECONDS,
    retry_condition_fn=_retry,
)
def run_training(run_id: str, launcher: LauncherName) -> bool:
    """Launch the trainer of ``run_id`` and follow it to its end; returns whether Ctrl-C stopped it.

    Another attempt continues from the last registered checkpoint, since the run id is the same.
    """
    store = ObjectStore(StoreSettings.from_environ())
    spec = runs.read_spec(store, run_id)
    artifacts = Artifacts(spec)
    observers = [artifacts, *([observer] if (observer := OBSERVER.get()) else [])]

    def observe(event: Event) -> None:
        for each in observers:
            each(event)

    labels = {"flow-run-id": str(runtime.flow_run.id)} if runtime.flow_run.id else {}
    job = training_job(run_id, spec.preset, spec.engine, labels)
    training = get_launcher(launcher, pippa_home()).start(job, os.environ)
    outcome = follow(training, observe, stop_grace())
    if outcome.interrupted:
        return True
    error = failure(outcome, training)
    if error is None:
        return False
    attempt = runtime.task_run.run_count or 1
    if can_heal(error) and attempt <= len(RETRY_SECONDS):
        observe(WarningEvent(message=error.message, hint=f"Trying again in {RETRY_SECONDS[attempt - 1]:g} s."))
    raise error
