"""The flow ``evaluate``: open-loop evaluation of a registered checkpoint, where trainings run."""

from __future__ import annotations

import os
from uuid import UUID

from prefect import flow, runtime
from prefect.artifacts import create_markdown_artifact
from prefect.exceptions import TerminationSignal
from prefect.logging import get_run_logger

from flows.launch import GPU_VARIABLE, LauncherName, machine
from flows.launch.follow import failure, follow
from flows.launch.launchers import get_launcher
from flows.orchestration import gpu_leases
from flows.orchestration.artifacts import key_of, log_event
from flows.orchestration.cancellation import stop_what_runs, supervised
from flows.orchestration.evaluating import evaluation_job, open_loop, require_known
from flows.settings import stop_grace
from flows.views.run_markdown import evaluated
from trainer.config.settings import pippa_home
from trainer.events import EvaluationEvent, Event
from trainer.store import registry
from trainer.store.stores import open_store


def _run_name() -> str:
    return f"evaluate {runtime.flow_run.parameters['checkpoint']}"


@flow(
    name="evaluate",
    flow_run_name=_run_name,
    persist_result=False,
    on_cancellation=[stop_what_runs],
    on_crashed=[stop_what_runs],
)
def evaluate(
    checkpoint: str,
    dataset: str | None = None,
    trajs: int | None = None,
    launcher: LauncherName = "process",
    episodes: list[int] | None = None,
    more: list[str] | None = None,
    all_of_run: bool = False,
) -> dict[str, float]:
    """Predict the demonstrated actions with a registered checkpoint, and keep metrics and plots with it.

    Args:
        checkpoint: RUN/STEP, RUN (its newest), or an alias such as latest or smoke/best.
        dataset: Another dataset of the object store; empty for the one it was trained on.
        trajs: Episodes to evaluate, at most; empty for as many as its run evaluated.
        launcher: Where it runs.
        episodes: Numbers of the episodes to evaluate; empty for the usual ones.
        more: Further checkpoints; the data is loaded once for all.
        all_of_run: Of each RUN all checkpoints.
    """
    log, home, flow_run_id = get_run_logger(), pippa_home(), UUID(str(runtime.flow_run.id))
    # An unknown name is refused before anything waits for a GPU; an alias that moves meanwhile changes nothing.
    store = open_store()
    require_known(store, [checkpoint, *(more or [])], dataset)
    entry = registry.resolve(store, checkpoint)
    others = [name if all_of_run else registry.resolve(store, name).name for name in more or []]
    names = [checkpoint if all_of_run else entry.name, *others]
    arguments = open_loop(names, all_of_run=all_of_run, dataset=dataset, episodes=episodes)
    arguments += ["--trajs", str(trajs)] if trajs else []
    labels = {"run-id": str(flow_run_id), "flow-run-id": str(flow_run_id), "checkpoint": entry.name}
    job = evaluation_job(f"evaluate-{flow_run_id}", arguments, labels)
    metrics: dict[str, float] = {}
    found: list[EvaluationEvent] = []

    def observe(event: Event) -> None:
        log_event(log, event)
        if isinstance(event, EvaluationEvent):
            metrics.update(event.metrics)
            found.append(event)

    place, share = get_launcher(launcher, home), machine.trainings_per_gpu()
    place.image(job.engine, log.info)
    with gpu_leases.held(flow_run_id, machine.machine_name(), machine.gpus(launcher), 1, share, log.info) as gpus:
        chosen = {GPU_VARIABLE[launcher]: ",".join(gpus)} if gpus else {}
        training = place.start(job, {**os.environ, **chosen})
        outcome = follow(training, observe, stop_grace(), leave=TerminationSignal if supervised() else None)
    if outcome.interrupted:
        raise KeyboardInterrupt
    if error := failure(outcome, training):
        raise error
    create_markdown_artifact(
        "\n\n".join(evaluated(store, event) for event in found),
        key=key_of(f"evaluation-{entry.name}"),
        description=f"Open-loop evaluation of {entry.name}",
    )
    return metrics
