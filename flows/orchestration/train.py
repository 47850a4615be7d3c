"""The flow ``train``: what a worker runs, from the resolved preset to the report.

Its parameters are plain JSON, so that a deployment, a schedule and the command line start the same training. Everything
that a training leaves is in the object store: no Prefect result is persisted and nothing is cached by Prefect.
A training typed in a terminal is recorded as a run of the same flow (``flows.orchestration.recording``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from prefect import flow, runtime
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import TerminationSignal
from prefect.states import Cancelled
from prefect.tasks import Task

from flows.launch import LauncherName, machine
from flows.orchestration import gpu_leases
from flows.orchestration.artifacts import Artifacts, in_background, publish
from flows.orchestration.cancellation import cancellable, stop_what_runs, supervised
from flows.orchestration.parameters import Overrides, PresetName, given
from flows.orchestration.training import Request, Training
from trainer.config.run_spec import RUN_ID, Engine, new_run_id
from trainer.errors import PippaError
from trainer.events import ErrorEvent
from trainer.store.stores import open_store

T = TypeVar("T")


def _flow_run_name() -> str:
    """The run id: given, or made when the flow run first starts, so that the same flow run started again continues."""
    parameters, name = runtime.flow_run.parameters, runtime.flow_run.name
    return parameters.get("run_id") or (name if RUN_ID.fullmatch(name or "") else new_run_id(parameters["preset"]))


# pippa reports what is wrong in the parameters, all of it at once, and not the decorator.
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
    run_id, flow_run_id = run_id or str(runtime.flow_run.name), UUID(str(runtime.flow_run.id))
    artifacts = Artifacts(run_id)
    try:
        store = open_store()
        store.open()
        request = Request(preset, given(overrides), launcher, engine, run_id)
        with in_background(artifacts) as observe, cancellable(flow_run_id):
            trained = Training(
                store,
                request,
                observe,
                hold=partial(gpu_leases.held, flow_run_id, machine.machine_name()),
                step=_task,
                waits=True,
                labels={"flow-run-id": str(flow_run_id)},
                leave=TerminationSignal if supervised() else None,
            ).run()
    except KeyboardInterrupt:
        return Cancelled(message="Stopped.")
    except PippaError as error:
        # For those who follow from elsewhere: the state says it in Prefect's words, and without the exit code.
        publish(run_id, ErrorEvent(code=error.exit_code, message=error.message, hint=error.hint))
        raise
    artifacts.report(trained.markdown, trained.report.wandb_url)
    if trained.interrupted:
        return Cancelled(message="Stopped; it saved and can be continued.")
    return trained.report.model_dump(mode="json")


def _task(kind: str, title: str, work: Callable[[], T]) -> T:
    """A part of the training as a task run, for the timeline in Prefect's UI."""
    return Task(work, name=kind, task_run_name=lambda: title, persist_result=False, cache_policy=NO_CACHE)()
