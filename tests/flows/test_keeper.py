"""What a killed process leaves in Prefect is put right, on a real server."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.events import emit_event
from prefect.states import Cancelling, Pending, Running

from flows import keeper
from flows.keeper import Keeper, lost, recover


@flow(name="train")
def idle() -> None:
    """What a flow run of a training is called."""


@pytest.fixture
def client(stack) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def run(client) -> FlowRun:
    return client.create_flow_run(idle, name=f"run-{secrets.token_hex(3)}", state=Running())


def test_a_run_that_was_not_heard_of_is_lost_and_said_to_be(client, run, monkeypatch):
    assert run.id not in [found.id for found in lost(client)]
    monkeypatch.setattr(keeper, "LOST_SECONDS", 0.2)
    time.sleep(0.5)
    assert run.id in [found.id for found in lost(client)]
    Keeper().tidy(client)
    state = client.read_flow_run(run.id).state
    assert state is not None and state.is_crashed() and "pippa runs resume" in str(state.message)


def test_a_run_whose_process_lives_is_heard_of(client, run):
    since = datetime.now(UTC) - timedelta(seconds=5)
    emit_event("prefect.flow-run.heartbeat", {"prefect.resource.id": f"prefect.flow-run.{run.id}"})
    deadline = time.monotonic() + 30
    while not keeper._heard_of(client, run.id, since):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert not keeper._heard_of(client, run.id, datetime.now(UTC) + timedelta(seconds=5))


@pytest.mark.parametrize(
    ("left", "becomes"), [(Running(), "AwaitingRetry"), (Pending(), "AwaitingRetry"), (Cancelling(), "Cancelled")]
)
def test_a_worker_takes_up_what_one_of_its_name_left(client, left, becomes):
    worker = f"w-{secrets.token_hex(3)}"
    mine, other = (client.create_flow_run(idle, name=f"r-{secrets.token_hex(3)}", state=left) for _ in range(2))
    client.update_flow_run_labels(mine.id, {"prefect.worker.name": worker})
    client.update_flow_run_labels(other.id, {"prefect.worker.name": "another"})
    [done] = recover(client, worker)
    assert mine.name in done and client.read_flow_run(mine.id).state_name == becomes
    assert client.read_flow_run(other.id).state_name == left.name
