"""The containers of a flow run that ends from outside: they save, upload and go, and none stays without an owner.

Exactly one process stops a container, since a training that gets two signals ends without saving. It is the flow itself
where a person runs it, who may cancel it in Prefect's UI too, or where its worker was killed; under a worker it is the
hook, which also runs when the flow's process was killed; and the reaper (``flows.orchestration.reconciler``), when both
had their time.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from functools import partial
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.flows import Flow
from prefect.logging.handlers import PrefectConsoleHandler
from prefect.logging.loggers import flow_run_logger
from prefect.states import State
from rich.console import Console

from flows.launch.docker import docker_client, reaper
from flows.launch.docker.placement import find_placement
from flows.launch.process_table import has_process
from flows.orchestration import gpu_leases
from flows.orchestration.prefect_client import server_time, sync_client
from flows.settings import stop_grace
from trainer.errors import PippaError

FLOWS = ["train", "evaluate", "pull-dataset", "pull-base-model", "gc"]
"""The names of pippa's flows."""
MARGIN = timedelta(seconds=60)
LOOK_SECONDS = 3.0


def supervised() -> bool:
    """Whether a worker watches over this flow's process, and so runs its hooks."""
    return os.environ.get("PREFECT__ENABLE_CANCELLATION_AND_CRASHED_HOOKS") == "false"


@contextmanager
def cancellable(flow_run_id: UUID, pid: int | None = None) -> Generator[None]:
    """Make a cancellation in Prefect's UI a Ctrl-C in the process ``pid``, by default this one.

    Not while a worker watches for it. On a bare host its flows outlive one that is killed.
    """
    worker = os.getppid() if supervised() else None
    if worker is not None:
        _outlive_the_log()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(LOOK_SECONDS):
            if os.getppid() == worker:
                continue
            with suppress(httpx.HTTPError), sync_client() as client:
                state = client.read_flow_run(flow_run_id).state
                if state is not None and (state.is_cancelling() or state.is_cancelled()) and not ended.is_set():
                    os.kill(pid or os.getpid(), signal.SIGINT)
                    return

    thread = threading.Thread(target=watch, name="cancellation", daemon=True)
    thread.start()
    try:
        yield
    finally:
        # Before the flow run's own state is final, or a late look would take that for a cancellation.
        ended.set()
        thread.join()


def _outlive_the_log() -> None:
    """Keep this process, and with it the training, alive when the worker that reads its log is killed.

    Rich ends a process whose output has no reader, as shell pipes expect.
    """

    def stay(console: Console) -> None:
        with suppress(SystemExit):
            Console.on_broken_pipe(console)  # writes nothing from now on

    for name in (None, "prefect"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, PrefectConsoleHandler):
                handler.console.on_broken_pipe = partial(stay, handler.console)


def stop_what_runs(flow: Flow[..., object], flow_run: FlowRun, state: State) -> None:
    """Hook for ``on_cancellation`` and ``on_crashed``: stop the containers of the flow run, in their own time."""
    log = flow_run_logger(flow_run, flow)
    log.info("%s: stopping what it left running; a training saves and uploads a last checkpoint.", state.name)
    for name in stop_containers(flow_run):
        log.info("Stopped %s.", name)
    with sync_client() as client:
        gpu_leases.give_back(client, flow_run.id)


def stop_containers(flow_run: FlowRun) -> list[str]:
    """Stop the containers of ``flow_run`` and wait for their end; their names.

    Those that another flow run of the same run follows by now are its own.
    """
    with sync_client() as client:
        # A hook is given the flow run as it was before it began, when it had another name.
        run_id = client.read_flow_run(flow_run.id).name
        others = _runs_of(client, run_id)
    if any(run.id != flow_run.id and not _ended(run) for run in others):
        return []
    try:
        docker = docker_client.connect()
    except PippaError:
        return []  # nothing runs in containers here
    with closing(docker):
        grace = stop_grace()
        return [name for owner in (run_id, str(flow_run.id)) for name in reaper.stop_container(docker, owner, grace)]


def reap(client: SyncPrefectClient) -> list[str]:
    """Stop the containers of this stack whose flow run ended a while ago; their names."""
    try:
        docker = docker_client.connect()
    except PippaError:
        return []
    latest = server_time(client) - timedelta(seconds=stop_grace()) - MARGIN

    def is_stopping(run: FlowRun) -> bool:
        """Whether somebody else may see to its container: it ended lately, or its process is still there."""
        return run.state is None or run.state.timestamp > latest or has_process(run.id)

    def is_live(container: reaper.Owned) -> bool:
        runs = _runs_of(client, container.run_id) if container.run_id else []
        # This server does not know it: another one may.
        return not runs or any(not _ended(run) or is_stopping(run) for run in runs)

    with closing(docker):
        project = find_placement(docker, os.environ).project
        return reaper.reap(docker, is_live, stop_grace(), project)


def _runs_of(client: SyncPrefectClient, owner: str) -> list[FlowRun]:
    """The flow runs that a container's owner may mean: those of a run, or one by its id."""
    try:
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(owner)]))
    except ValueError:
        wanted = FlowRunFilter(name=FlowRunFilterName(any_=[owner]))
    return client.read_flow_runs(flow_run_filter=wanted)


def _ended(run: FlowRun) -> bool:
    return run.state is not None and run.state.is_final()
