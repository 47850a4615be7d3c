"""A training on another machine: submitted to the Prefect server, and followed through nothing but its API."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, Literal
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterName,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, WorkerStatus
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling

from flows.orchestration.artifacts import EVENT, resource_of
from flows.orchestration.deployments import POOL
from flows.orchestration.parameters import as_form, given
from flows.views.run_markdown import without_pictures
from trainer.config.argv import resolve_values
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.run_spec import Engine
from trainer.errors import ExitCode, UsageError
from trainer.events import DoneEvent, ErrorEvent, Event, parse_event
from trainer.runner.wandb_setup import GROUP
from trainer.store.runs import read_spec
from trainer.store.stores import open_store

POLL_SECONDS = 1.5
LAST_WORDS_SECONDS = 60.0
"""Events reach the API some seconds after the state that they led to."""
AWAY_SECONDS = 600.0
"""A laptop sleeps, a network comes and goes."""
_PAGE = 50


@dataclass(frozen=True)
class End:
    """How a training that was followed ended."""

    state: str
    message: str
    exit_code: int
    error: ErrorEvent | None


def submit(
    client: SyncPrefectClient,
    preset: str | None,
    overrides: dict[str, Any],
    engine: Engine | None,
    run_id: str,
    group: str = "",
) -> FlowRun:
    """Start the deployment ``train/<preset>`` as ``run_id``; without ``preset``, that which the run had before.

    Where this server does not know the run, as on a machine in place of one that was lost, the store says which.

    ``group`` is the run's in W&B instead of the preset, and a tag of the flow run (``of_group``).

    Raises ``UsageError`` when the run is active already, when neither server nor store knows it, and when the server
    has no such deployment or refuses the parameters.
    """
    earlier = _flow_runs(client, run_id)
    if unfinished := [run for run in earlier if run.state is None or not run.state.is_final()]:
        state = unfinished[0].state
        raise UsageError(
            f"{run_id} has not ended: its flow run is {state.name if state else 'about to begin'}.",
            f"`pippa runs follow {run_id}` watches it, `pippa runs cancel {run_id}` ends it. If its process was "
            "killed, its machine's worker says so within four minutes; without one, set its state on Prefect's page.",
        )
    if preset is None:
        preset = str(earlier[0].parameters["preset"]) if earlier else read_spec(open_store(), run_id).preset
    try:
        deployment = client.read_deployment_by_name(f"train/{preset}")
    except ObjectNotFound:
        raise UsageError(
            f"The Prefect server has no deployment train/{preset}.",
            "`pippa worker` on the machine that trains registers them; is its version the same as yours?",
        ) from None
    parameters: dict[str, Any] = {"overrides": as_form(overrides), "run_id": run_id}
    if engine is not None:
        parameters["engine"] = engine
    try:
        return client.create_flow_run_from_deployment(
            deployment.id,
            parameters=parameters,
            name=run_id,
            tags=[group] if group else [],
            job_variables={f"env.{GROUP}": group} if group else None,
            # Of this submission: a request that the client sends again starts one flow run, a run resumed another one.
            idempotency_key=f"{run_id}-{secrets.token_hex(8)}",
        )
    except httpx.HTTPStatusError as error:
        if error.response.status_code not in (HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY):
            raise
        detail = error.response.json().get("detail", error.response.text)
        raise UsageError(
            f"The Prefect server does not take these parameters: {detail}",
            "Is the worker's pippa as new as yours? Its forms know only the arguments that it knows.",
        ) from None


def workers_online(client: SyncPrefectClient) -> int:
    """How many workers would take a training now."""
    try:
        workers = client.read_workers_for_work_pool(POOL)
    except ObjectNotFound:
        return 0
    return len([worker for worker in workers if worker.status == WorkerStatus.ONLINE])


def find(client: SyncPrefectClient, run_id: str) -> FlowRun:
    """The newest flow run of the training ``run_id``. Raises ``UsageError`` when the server knows none."""
    found = _flow_runs(client, run_id)
    if not found:
        raise UsageError(f"The Prefect server knows no run {run_id}.", "`pippa runs list` lists the store's.")
    return found[0]


@dataclass(frozen=True)
class Submitted:
    """A training that was submitted."""

    run_id: str
    config: FinetuneConfig
    engine: Engine | None
    state: Literal["done", "active", "ended"]


def of_group(client: SyncPrefectClient, group: str) -> list[Submitted]:
    """The trainings of ``group``, the oldest first."""
    found: dict[str, list[FlowRun]] = {}
    for run in client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=["train"])),
        flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[group])),
        sort=FlowRunSort.EXPECTED_START_TIME_ASC,
    ):
        found.setdefault(run.name, []).append(run)
    submitted = []
    for run_id, flow_runs in found.items():
        # The first one has what is trained, the last one how it stands: a run that is resumed has several.
        asked, state = flow_runs[0].parameters, flow_runs[-1].state
        with suppress(UsageError):  # another pippa's
            config = resolve_values(str(asked["preset"]), given(asked.get("overrides")), environ={})[1]
            ended = state is not None and state.is_final()
            how: Any = "active" if not ended else "done" if state and state.is_completed() else "ended"
            submitted.append(Submitted(run_id, config, asked.get("engine"), how))
    return submitted


def cancel(client: SyncPrefectClient, flow_run: FlowRun) -> None:
    """Ask for the end of a training: it saves and uploads a last checkpoint first."""
    client.set_flow_run_state(flow_run.id, Cancelling(message="Cancelled by `pippa runs cancel`."))


def follow(
    client: SyncPrefectClient,
    flow_run_id: UUID,
    run_id: str,
    observe: Callable[[Event], None],
    waiting: Callable[[str], None],
    poll: float = POLL_SECONDS,
) -> End:
    """Pass every event of the training to ``observe`` until it has ended; ``waiting`` hears why it has not begun.

    A server that can't be reached is tried again for ten minutes.
    """
    events = _Events(client, run_id)
    last, reported, away = None, "", None
    while True:
        try:
            flow_run = client.read_flow_run(flow_run_id)
            for event in events.new():
                last = event if isinstance(event, ErrorEvent | DoneEvent) else last
                observe(event)
            away = None
        except (httpx.TransportError, httpx.HTTPStatusError) as error:
            if (
                isinstance(error, httpx.HTTPStatusError)
                and error.response.status_code < HTTPStatus.INTERNAL_SERVER_ERROR
            ):
                raise
            away = away or time.monotonic()
            if time.monotonic() - away > AWAY_SECONDS:
                raise
            time.sleep(poll)
            continue
        state = flow_run.state
        if state is not None and state.is_final():
            break
        if state is not None and (state.is_scheduled() or state.is_pending()) and reported != state.name:
            reported = str(state.name)
            waiting(reported)
        time.sleep(poll)
    deadline = time.monotonic() + LAST_WORDS_SECONDS
    while last is None and not state.is_cancelled() and time.monotonic() < deadline:
        time.sleep(poll)
        for event in events.new():
            last = event if isinstance(event, ErrorEvent | DoneEvent) else last
            observe(event)
    error = last if isinstance(last, ErrorEvent) and not state.is_completed() else None
    return End(str(state.name), state.message or "", _exit_code(flow_run, error), error)


def report_of(client: SyncPrefectClient, run_id: str) -> str | None:
    """The report the run left in Prefect, as Markdown for a terminal."""
    answer = client.request("GET", "/artifacts/{key}/latest", path_params={"key": f"{run_id}-report"})
    return without_pictures(answer.json().get("data") or "") or None


def _flow_runs(client: SyncPrefectClient, run_id: str) -> list[FlowRun]:
    """The flow runs of a training, the newest first: one each time it was started or resumed."""
    return client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=["train"])),
        flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[run_id])),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
    )


def _exit_code(flow_run: FlowRun, error: ErrorEvent | None) -> int:
    state = flow_run.state
    if state is None or state.is_completed():
        return ExitCode.DONE
    if state.is_cancelled():
        return ExitCode.TERMINATED
    return error.code if error else ExitCode.FAILED


class _Events:
    """The events of a run, each once, in their order."""

    def __init__(self, client: SyncPrefectClient, run_id: str) -> None:
        self._client = client
        self._resource = resource_of(run_id)
        self._since = datetime.now(UTC) - timedelta(days=7)
        self._seen: set[str] = set()

    def new(self) -> list[Event]:
        """Those that came since the last call."""
        found: list[Event] = []
        since = self._since
        while True:
            page = [each for each in self._page(since) if each["id"] not in self._seen]
            if not page:
                break
            self._seen.update(each["id"] for each in page)
            found += [event for each in page if (event := _event(each["payload"]))]
            since = datetime.fromisoformat(page[-1]["occurred"])
        # They are stored in batches, not quite in the order of their time: look back a little the next time.
        self._since = max(self._since, since - timedelta(seconds=60))
        return sorted(found, key=lambda event: event.time)

    def _page(self, since: datetime) -> list[dict[str, Any]]:
        wanted = {
            "event": {"name": [EVENT]},
            "resource": {"id": [self._resource]},
            "occurred": {"since": since.isoformat()},
            "order": "ASC",
        }
        answer = self._client.request("POST", "/events/filter", json={"filter": wanted, "limit": _PAGE})
        return answer.json()["events"]


def _event(payload: dict[str, Any]) -> Event | None:
    return parse_event(json.dumps(payload))
