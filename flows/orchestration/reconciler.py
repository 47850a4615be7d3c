"""Cleans up after killed processes: flow runs that seem to run, containers without an owner, GPUs that seem taken."""

from __future__ import annotations

import logging
import threading
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter, FlowRunFilterState
from prefect.client.schemas.filters import FlowRunFilterStateType as StateTypes
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import AwaitingRetry, Cancelled, Crashed

from flows.launch.machine import machine_name
from flows.launch.process_table import has_process
from flows.orchestration import cancellation, gpu_leases
from flows.orchestration.prefect_client import sync_client

KEEP_SECONDS = 60.0
LOST_SECONDS = 150.0
"""A flow's process sends a heartbeat every 30 seconds (flows.settings); after this long without one it was killed."""

_WORKER = "prefect.worker.name"
_LOG = logging.getLogger("pippa.worker")


def recover(client: SyncPrefectClient, worker: str) -> list[str]:
    """Start again what an earlier worker of this name left when it ended; returns what was done, for people.

    Called before the worker takes its first run: whatever has this worker's name and no process here was left. The
    same flow run is put back in the queue; it has the same run id, and so follows its container again or, when that is
    gone too, continues from the last checkpoint. One that was being cancelled is.
    """
    done = []
    for run in _unfinished(client, StateType.PENDING, StateType.RUNNING, StateType.CANCELLING):
        if run.labels.get(_WORKER) != worker or has_process(run.id):
            continue
        if run.state_type == StateType.CANCELLING:
            cancellation.stop_containers(run)
            client.set_flow_run_state(run.id, Cancelled(message="Cancelled while its worker was away."), force=True)
            done.append(f"{run.name} was being cancelled: ended.")
        else:
            again = AwaitingRetry(message="Its worker was stopped; it continues.")
            client.set_flow_run_state(run.id, again, force=True)
            done.append(f"{run.name} was left by an earlier worker: it continues.")
    return done


class Reconciler:
    """A thread that tidies once a minute, as a context manager."""

    def __init__(self, seconds: float = KEEP_SECONDS) -> None:
        self._seconds = seconds
        self._ended = threading.Event()
        self._leaked: dict[str, float] = {}
        self._heard: dict[UUID, tuple[object, float]] = {}
        """The last heartbeat of each flow run, and when (``time.monotonic``) it was new here."""

    def __enter__(self) -> Reconciler:
        threading.Thread(target=self._run, name="reconciler", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def tidy(self, client: SyncPrefectClient) -> None:
        """One round."""
        for run in self._lost(client, machine_name()):
            message = "The process that followed it was killed. `pippa runs resume` continues the run."
            client.set_flow_run_state(run.id, Crashed(message=message), force=True)
            _LOG.warning("%s: %s", run.name, message)
            cancellation.stop_containers(run)
        for name in cancellation.reap(client):
            _LOG.warning("Stopped %s: its flow run has ended.", name)
        self._free_leaked(client)

    def _run(self) -> None:
        while not self._ended.wait(self._seconds):
            try:
                with sync_client() as client:
                    self.tidy(client)
            except Exception as error:  # a server or engine that is away is back some other minute
                self._heard.clear()  # while the server was away, no heartbeat could arrive
                _LOG.warning("Could not tidy up: %s", error)

    def _lost(self, client: SyncPrefectClient, machine: str) -> list[FlowRun]:
        """Flow runs started from a terminal or a compose service of ``machine`` whose process ended without a word.

        Those of other machines may train on behind a broken tunnel. Only what is heard here counts, and no clock that
        somebody may set: silence begins when this reconciler has heard the last word.
        """
        heard = self._heard
        running = [
            run
            for run in _unfinished(client, StateType.RUNNING)
            # Those of deployments are their worker's concern. One that has not said where it trains may be of this
            # machine.
            if run.deployment_id is None and run.labels.get(gpu_leases.MACHINE, machine) == machine
        ]
        words = {run.id: (run.state_id, _words(client, run.id)) for run in running}
        # After the answers: a request that waited for the server's return must not date a silence before it.
        now = time.monotonic()
        self._heard = {
            each: heard[each] if each in heard and heard[each][0] == word else (word, now)
            for each, word in words.items()
        }
        return [run for run in running if now - self._heard[run.id][1] > LOST_SECONDS]

    def _free_leaked(self, client: SyncPrefectClient) -> None:
        """Give back what a server that lost its leases counts as held: nothing trained here for longer than they last.

        A server in a new container has an old database and no leases.
        """
        now, taken = time.monotonic(), gpu_leases.leaked(client, machine_name())
        self._leaked = {limit: self._leaked.get(limit, now) for limit in taken}
        for limit, since in self._leaked.items():
            if now - since > 2 * gpu_leases.LEASE_SECONDS:
                gpu_leases.free(client, limit)
                _LOG.warning("Freed %s: nothing trains there.", limit)


def _words(client: SyncPrefectClient, flow_run_id: UUID) -> int:
    """How many heartbeats of the flow run there are."""
    day = timedelta(days=1)
    answer = client.request(
        "POST",
        "/events/filter",
        json={
            "filter": {
                "event": {"name": ["prefect.flow-run.heartbeat"]},
                "resource": {"id": [f"prefect.flow-run.{flow_run_id}"]},
                # Their sender may have had another idea of the time, and so their order means nothing.
                "occurred": {
                    "since": (datetime.now(UTC) - day).isoformat(),
                    "until": (datetime.now(UTC) + day).isoformat(),
                },
            },
            "limit": 1,
        },
    )
    return int(answer.json()["total"])


def _unfinished(client: SyncPrefectClient, *types: StateType) -> list[FlowRun]:
    return client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=cancellation.FLOWS)),
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=StateTypes(any_=list(types)))),
    )
