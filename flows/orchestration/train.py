"""The flow ``train``: behind every way to start a training, from the resolved preset to the report.

Its parameters are plain JSON, so that a deployment, a schedule and the command line start the same thing. Everything
that a training leaves is in the object store: no Prefect result is persisted and nothing is cached by Prefect.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any
from uuid import UUID

from prefect import flow, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.exceptions import TerminationSignal
from prefect.logging import get_run_logger
from prefect.states import Cancelled
from prefect.tasks import Task

from flows.launch import GPU_VARIABLE, LauncherName, machine, training_job
from flows.launch.follow import can_heal, failure, follow
from flows.launch.launchers import get_launcher
from flows.orchestration import gpu_leases
from flows.orchestration.artifacts import Artifacts, log_event, publish
from flows.orchestration.cancellation import cancellable, stop_what_runs, supervised
from flows.orchestration.ensure_imported import ensure_imported
from flows.orchestration.parameters import Overrides, PresetName, given
from flows.settings import stop_grace
from flows.views.report import build_report, to_markdown
from trainer.config.argv import require_engine_can, resolve_values
from trainer.config.run_spec import RUN_ID, Engine, RunSpec, SnapshotRef, new_run_id
from trainer.config.settings import pippa_home
from trainer.errors import PippaError, UsageError
from trainer.events import ErrorEvent, Event, PhaseEvent, WarningEvent
from trainer.runner.run_spec_builder import new_spec
from trainer.store import runs
from trainer.store.object_store import ObjectStore
from trainer.store.stores import open_store

RETRY_SECONDS: list[float] = [5, 20, 60]

OBSERVER: ContextVar[Callable[[Event], None] | None] = ContextVar("observer", default=None)
"""Whoever started the flow in this process and wants to see the trainer's events: the terminal."""


def _flow_run_name() -> str:
    """The run id: given, or made when the flow run first starts, so that the same flow run started again continues."""
    parameters, name = runtime.flow_run.parameters, runtime.flow_run.name
    return parameters.get("run_id") or (name if RUN_ID.fullmatch(name or "") else new_run_id(parameters["preset"]))


# What is wrong in the parameters is said in pippa's words, all of it at once, and not by the decorator.
@flow(
    name="train",
    flow_run_name=_flow_run_name,
    persist_result=False,
    validate_parameters=False,
    on_cancellation=[stop_what_runs],
    on_crashed=[stop_what_runs],
)
def train(
    preset: PresetName,
    overrides: Overrides = Overrides(),  # noqa: B008 - frozen
    launcher: LauncherName = "process",
    engine: Engine = "native",
    run_id: str | None = None,
) -> Any:
    """Train a preset, and report.

    A run that the object store knows is continued from its last checkpoint, with the spec it was started with. Returns
    the run's summary. Raises the trainer's ``PippaError``; Ctrl-C ends in the state Cancelled.

    Args:
        preset: The recipe.
        overrides: What to change of it.
        launcher: Where it trains: in a container of the worker's machine, or in the worker's own Python.
        engine: What trains it: pippa's own engine, or Isaac-GR00T in its image, by uv or conda.
        run_id: A run to continue, by its id; leave it empty for a new one.
    """
    run_id = run_id or str(runtime.flow_run.name)
    try:
        store = open_store()
        store.create()
        spec = _spec(store, preset, given(overrides), launcher, engine, run_id)
        with cancellable(UUID(str(runtime.flow_run.id))), _gpus(spec, launcher) as gpus:
            interrupted = run_training(run_id, launcher, gpus)
    except KeyboardInterrupt:
        return Cancelled(message="Stopped.")
    except PippaError as error:
        # For whoever follows from elsewhere: the state says it in Prefect's words, and without the exit code.
        publish(run_id, ErrorEvent(code=error.exit_code, message=error.message, hint=error.hint))
        raise
    report = build_report(store, spec.run_id)
    Artifacts(spec).report(to_markdown(report), report.wandb_url)
    if interrupted:
        return Cancelled(message="Stopped; it saved and can be continued.")
    return report.model_dump(mode="json")


def _spec(
    store: ObjectStore,
    preset_name: str,
    overrides: dict[str, Any],
    launcher: LauncherName,
    engine: Engine,
    run_id: str,
) -> RunSpec:
    """The stored spec of ``run_id``, or a new one with everything it needs in the store."""
    if runs.read_file(store, run_id, "spec.json") is not None:
        known = runs.read_spec(store, run_id)
        # The very same request again is the same flow run, started a second time.
        if known.preset != preset_name or (overrides and known.config != resolve_values(preset_name, overrides)[1]):
            raise UsageError(
                f"{run_id} exists already, as a run of {known.preset}.",
                f"`pippa runs resume {run_id}` continues it as it was; leave the run id out for a new run.",
            )
        get_launcher(launcher, pippa_home()).require(known.config, known.engine)
        return known
    preset, config, provenance = resolve_values(preset_name, overrides)
    require_engine_can(config, engine)
    observe = _observe(run_id)
    place = get_launcher(launcher, pippa_home())
    place.require(config, engine)
    image = place.image(engine, lambda line: observe(PhaseEvent(phase="prepare", message=line)))
    observe(PhaseEvent(phase="prepare", message="Looking for dataset and base model in the store."))
    # The datasets first: a bad one is refused before a base model of gigabytes is fetched.
    datasets = [ensure_dataset(name, config.data_config, launcher, run_id) for name in config.dataset_path]
    base_model = ensure_base_model(config.base_model_path, launcher, run_id)
    spec = new_spec(preset, config, provenance, datasets, base_model, engine, run_id=run_id, image=image)
    runs.write_spec(store, spec)
    return spec


def _gpus(spec: RunSpec, launcher: LauncherName) -> AbstractContextManager[list[str]]:
    """The GPUs of this machine that the run trains on, waited for while others do."""
    observe = _observe(spec.run_id)
    return gpu_leases.held(
        UUID(str(runtime.flow_run.id)),
        machine.machine_name(),
        machine.gpus(launcher),
        spec.config.num_gpus,
        machine.trainings_per_gpu(),
        lambda line: observe(PhaseEvent(phase="wait", message=line)),
    )


@task(name="dataset", task_run_name="dataset {name}", persist_result=False, cache_policy=NO_CACHE)
def ensure_dataset(name: str, data_config: str, launcher: LauncherName, run_id: str) -> SnapshotRef:
    """The snapshot of a dataset, made or pushed into the store for ``run_id`` unless it is there."""
    return ensure_imported("dataset", name, launcher, run_id, data_config=data_config, observe=_observe(run_id))


@task(name="base model", task_run_name="base model {name}", persist_result=False, cache_policy=NO_CACHE)
def ensure_base_model(name: str, launcher: LauncherName, run_id: str) -> SnapshotRef:
    """The snapshot of a base model, made or pushed into the store for ``run_id`` unless it is there."""
    return ensure_imported("model", name, launcher, run_id, observe=_observe(run_id))


def _observe(run_id: str) -> Callable[[Event], None]:
    """What happens before a run trains: into Prefect's log, and to whoever follows it, here or elsewhere."""
    log, observer = get_run_logger(), OBSERVER.get()

    def observe(event: Event) -> None:
        log_event(log, event)
        publish(run_id, event)
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
def run_training(run_id: str, launcher: LauncherName, gpus: list[str]) -> bool:
    """Launch the trainer of ``run_id`` on ``gpus`` and follow it to its end; returns whether Ctrl-C stopped it.

    Another attempt continues from the last registered checkpoint, since the run id is the same.
    """
    store = open_store()
    spec = runs.read_spec(store, run_id)
    artifacts = Artifacts(spec)
    observers = [artifacts, *([observer] if (observer := OBSERVER.get()) else [])]

    def observe(event: Event) -> None:
        for each in observers:
            each(event)

    labels = {"flow-run-id": str(runtime.flow_run.id)} if runtime.flow_run.id else {}
    job = training_job(run_id, spec.preset, spec.engine, labels)
    chosen = {GPU_VARIABLE[launcher]: ",".join(gpus)} if gpus else {}
    training = get_launcher(launcher, pippa_home()).start(job, {**os.environ, **chosen})
    outcome = follow(training, observe, stop_grace(), leave=TerminationSignal if supervised() else None)
    if outcome.interrupted:
        return True
    error = failure(outcome, training)
    if error is None:
        return False
    attempt = runtime.task_run.run_count or 1
    if can_heal(error) and attempt <= len(RETRY_SECONDS):
        observe(WarningEvent(message=error.message, hint=f"Trying again in {RETRY_SECONDS[attempt - 1]:g} s."))
    raise error
