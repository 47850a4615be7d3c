"""One training per GPU: a training holds the GPUs of its machine that it computes on, and waits in sight until it has.

Each GPU is a concurrency limit of Prefect, ``gpu-<id>@<machine>`` on the page Concurrency (``cpu@<machine>`` where
there is none), and counts every training that uses the same server, whether a deployment, a compose service or a
terminal started it. What is held is a lease that the flow's process renews: one that was killed gives its GPU back
within about a minute, and a flow run that continues its training takes it over. A container that trains on, without a
lease, keeps its GPUs all the same: the daemon is asked too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from http import HTTPStatus
from itertools import combinations
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterName,
    FlowRunFilterState,
    FlowRunFilterStateName,
)
from prefect.client.schemas.objects import ConcurrencyLeaseHolder, FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Running, State

from flows.launch.machine import in_container, occupants, require_gpus, trains_on
from flows.orchestration.prefect_client import sync_client, unless_there

WAITING = "Waiting for a GPU"
"""The name of the state of a flow run that has none yet."""
HOLDING = ("Running", "Cancelling")
"""The states of one that has."""
MACHINE = "pippa.machine"
GPUS = "pippa.gpus"
LEASE = "pippa.lease"
"""The labels of a flow run that say where it trains, and by which lease."""

# The shortest lease the server takes, so that a killed training is soon forgotten.
LEASE_SECONDS = 60.0
RENEW_SECONDS = 15.0
ASK_SECONDS = 2.0


@contextmanager
def held(
    flow_run_id: UUID, machine: str, gpus: Sequence[str], wanted: int, share: int, say: Callable[[str], None]
) -> Generator[list[str]]:
    """Hold ``wanted`` of ``gpus`` for the flow run, after waiting for them if need be; yields their ids.

    ``share`` trainings may hold the same one. While it waits, the flow run's state says so and for whom, and ``say`` is
    told. A server that is away for a while costs a training nothing: the GPUs are asked for again when it is back. A
    flow run that continues a training whose process was killed takes over what it held; where the server has forgotten
    that, and the container trains on, the lease is asked for beside it. Without ``gpus`` the machine's processor is
    held, and nothing yielded. Raises ``UsageError`` for more than there are.
    """
    require_gpus(machine, gpus, wanted)
    ids = {f"gpu-{gpu}@{machine}": gpu for gpu in gpus}
    names = list(ids) or [f"cpu@{machine}"]
    with sync_client() as client:
        for name in names:
            with unless_there():
                client.upsert_global_concurrency_limit_by_name(name, share, slot_decay_per_second=0.0)
        run = client.read_flow_run(flow_run_id)
        own, labels = (run.name, str(flow_run_id)), run.labels
        choices = sorted(
            combinations(names, wanted if gpus else 1),
            # A flow run that is started again may find its container still training on those it had.
            key=lambda choice: ",".join(ids.get(name, "") for name in choice) != labels.get(GPUS),
        )

        def full() -> dict[str, list[str]]:
            found = occupants(gpus, own)
            return {name: runs for name, gpu in ids.items() if len(runs := found[gpu]) >= share}

        lease = _Lease(flow_run_id, choices, full)
        if not (lease.take_over(client, machine) or lease.join(client, machine, trains_on(own)) or lease.ask(client)):
            client.update_flow_run_labels(flow_run_id, {MACHINE: machine})
            _wait(client, lease, machine, say)
            client.set_flow_run_state(flow_run_id, Running(), force=True)
        chosen = [ids[name] for name in lease.limits if name in ids]
        lease_id = str(lease.id or "")
        client.update_flow_run_labels(flow_run_id, {MACHINE: machine, GPUS: ",".join(chosen), LEASE: lease_id})
    with lease:
        yield chosen


def give_back(client: SyncPrefectClient, flow_run_id: UUID) -> None:
    """Give back what a flow run holds whose process was killed; nothing, where it did so itself."""
    if lease := client.read_flow_run(flow_run_id).labels.get(LEASE):
        with suppress(httpx.HTTPStatusError):  # it is gone
            client.release_concurrency_slots_with_lease(UUID(str(lease)))


def leaked(client: SyncPrefectClient, machine: str, without: UUID | None = None) -> list[str]:
    """The limits of ``machine`` of which more is taken than trains there; the flow run ``without`` does not count."""
    running = [run for run in _trainings(client, machine, *HOLDING) if run.id != without]
    return [
        limit.name
        for limit in client.read_global_concurrency_limits(limit=200)
        if limit.name.endswith(f"@{machine}") and limit.active_slots > _holding(running, limit.name)
    ]


def free(client: SyncPrefectClient, limit: str, without: UUID | None = None) -> None:
    """Forget what is held of ``limit``, but for what trains there; the flow run ``without`` does not count."""
    running = [run for run in _trainings(client, limit.rpartition("@")[2], *HOLDING) if run.id != without]
    held = GlobalConcurrencyLimitUpdate(active_slots=_holding(running, limit))
    client.update_global_concurrency_limit(limit, held)


def _holding(running: list[FlowRun], limit: str) -> int:
    """How many of the flow runs hold ``limit``."""
    return sum(limit in _limits(run, limit.rpartition("@")[2]) for run in running)


def _limits(run: FlowRun, machine: str) -> tuple[str, ...]:
    """What a flow run holds on ``machine``, as its labels say; nothing before it has held any."""
    return _names(str(run.labels[GPUS]).split(","), machine) if GPUS in run.labels else ()


def _names(gpus: Sequence[str], machine: str) -> tuple[str, ...]:
    """The limits of ``gpus``, or of the processor."""
    return tuple(f"gpu-{gpu}@{machine}" for gpu in gpus if gpu) or (f"cpu@{machine}",)


def _wait(client: SyncPrefectClient, lease: _Lease, machine: str, say: Callable[[str], None]) -> None:
    reported = ""
    while True:
        trainings = _trainings(client, machine)
        holders = [run.name for run in trainings if run.state_name != WAITING and run.id != lease.flow_run_id]
        holders += [in_container(run) for run in lease.inside if run not in holders]
        ahead = _ahead(trainings, lease.flow_run_id)
        message = f"Training on {machine}: {', '.join(holders) or 'one that was killed a moment ago'}." + (
            f" Before this one in the queue: {', '.join(run.name for run in ahead)}." if ahead else ""
        )
        if message != reported:
            state: State[None] = State(type=StateType.RUNNING, name=WAITING, message=message)
            client.set_flow_run_state(lease.flow_run_id, state, force=True)
            say(f"{WAITING}. {message}")
            reported = message
        # The first in line asks most often. An order kept to the letter would let one that was killed while it waited
        # hold up all others.
        time.sleep(ASK_SECONDS * (1 + 2 * len(ahead)))
        if lease.ask(client):
            return


def _ahead(trainings: list[FlowRun], flow_run_id: UUID) -> list[FlowRun]:
    """Those that wait and came before this one; ``trainings`` are in the order of their start."""
    waiting = [run for run in trainings if run.state_name == WAITING or run.id == flow_run_id]
    position = next((index for index, run in enumerate(waiting) if run.id == flow_run_id), len(waiting))
    return waiting[:position]


def _trainings(client: SyncPrefectClient, machine: str, *states: str, name: str | None = None) -> list[FlowRun]:
    """The flow runs called ``name`` that are in ``states`` on ``machine``, the first first.

    By default all that train there or wait for it.
    """
    found = client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=["train", "evaluate"])),
        flow_run_filter=FlowRunFilter(
            name=None if name is None else FlowRunFilterName(any_=[name]),
            state=FlowRunFilterState(name=FlowRunFilterStateName(any_=list(states) or [*HOLDING, WAITING])),
        ),
        sort=FlowRunSort.START_TIME_ASC,
    )
    return [run for run in found if run.labels.get(MACHINE) == machine]


class _Lease:
    """A lease on one of several sets of limits; as a context manager, renewed by a thread and given back at the end."""

    def __init__(
        self,
        flow_run_id: UUID,
        choices: Sequence[tuple[str, ...]],
        full: Callable[[], dict[str, list[str]]] = dict,
    ) -> None:
        self.flow_run_id = flow_run_id
        self.limits: tuple[str, ...] = ()
        self.inside: dict[str, None] = {}
        """The runs whose containers were in the way when it was asked for last."""
        self._choices = choices
        self._full = full
        """The limits that containers fill, and their runs: also those that nobody holds a lease for."""
        self.id: UUID | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="gpu-lease", daemon=True)

    def take_over(self, client: SyncPrefectClient, machine: str) -> bool:
        """Take what the flow run held when its process was killed, or what another one of this training still holds.

        Should that process live after all, both renew the lease.
        """
        own = client.read_flow_run(self.flow_run_id)
        if own.labels.get(MACHINE) == machine and self._adopt(client, own, machine):
            return True
        give_back(client, self.flow_run_id)
        # Crashed: what recorded a killed training says so before the lease ends. One that is cancelled, or was crashed
        # under a worker, is waited for: it is stopped and saves, and this one continues from there.
        for run in _trainings(client, machine, "Running", "Crashed", name=own.name):
            if run.id == self.flow_run_id or (run.state_name == "Crashed" and run.deployment_id is not None):
                continue
            if self._adopt(client, run, machine):
                return True
        return False

    def _adopt(self, client: SyncPrefectClient, run: FlowRun, machine: str) -> bool:
        """Go on with the lease of ``run``, so that nobody who waits gets its GPUs in between."""
        limits = _limits(run, machine)
        if not run.labels.get(LEASE) or limits not in self._choices:
            return False
        lease = UUID(str(run.labels[LEASE]))
        with suppress(httpx.HTTPStatusError):  # it has ended
            client.renew_concurrency_lease(lease, LEASE_SECONDS)
            self.id, self.limits = lease, limits
            return True
        return False

    def join(self, client: SyncPrefectClient, machine: str, gpus: list[str] | None) -> bool:
        """Hold what the run's own container computes on, ``gpus``; without a lease if need be, as the server forgot it.

        To wait for a lease would only leave the container without anybody who follows it. One that is being stopped is
        waited for.
        """
        if gpus is None or (limits := _names(gpus, machine)) not in self._choices:
            return False
        self.limits = limits
        self.ask(client)
        return True

    def ask(self, client: SyncPrefectClient) -> bool:
        """Take the first set that is free; the limits of one are taken all or none."""
        holder = ConcurrencyLeaseHolder(type="flow_run", id=self.flow_run_id)
        choices: Sequence[tuple[str, ...]] = [self.limits]
        if not self.limits:
            full = self._full()
            self.inside = dict.fromkeys(run for runs in full.values() for run in runs)
            choices = [limits for limits in self._choices if not full.keys() & set(limits)]
        for limits in choices:
            try:
                answer = client.increment_concurrency_slots_with_lease(
                    list(limits), 1, "concurrency", LEASE_SECONDS, holder
                )
            except httpx.HTTPStatusError as error:
                if error.response.status_code != HTTPStatus.LOCKED:
                    raise
                continue
            self.id, self.limits = UUID(answer.json()["lease_id"]), limits
            return True
        return False

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        # A server that is away takes it back itself when the lease ends.
        self._thread.join(timeout=15.0)

    def _work(self) -> None:
        self._renew()
        with suppress(httpx.HTTPError), sync_client() as client:
            if self.id is not None:
                client.release_concurrency_slots_with_lease(self.id)

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_SECONDS):
            with suppress(httpx.HTTPError), sync_client() as client:
                try:
                    if self.id is not None:
                        client.renew_concurrency_lease(self.id, LEASE_SECONDS)
                except httpx.HTTPStatusError as error:
                    if error.response.status_code != HTTPStatus.GONE:
                        raise
                    # The server was away for longer than the lease. Should somebody else have the GPU by now, they
                    # share it: ending one of two trainings would be worse.
                    self.id = None
                if self.id is None and (self.ask(client) or self._reclaim(client)):
                    client.update_flow_run_labels(self.flow_run_id, {LEASE: str(self.id)})

    def _reclaim(self, client: SyncPrefectClient) -> bool:
        """Take what a server that was restarted counts as held, by a lease that it has forgotten."""
        for limit in self.limits:
            machine = limit.rpartition("@")[2]
            if limit in leaked(client, machine, without=self.flow_run_id):
                free(client, limit, without=self.flow_run_id)
        return self.ask(client)
