"""What a killed process leaves in Prefect is put right, on a real server."""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.context import refresh_global_settings_context
from prefect.events import emit_event
from prefect.states import Cancelling, Pending, Running, State

from flows.orchestration import gpu_leases, reconciler
from flows.orchestration.reconciler import Reconciler, recover
from tests.flows.orchestration.conftest import idle
from tests.support.proxy import proxy
from tests.support.waiting import until


@pytest.fixture
def run(client) -> FlowRun:
    return client.create_flow_run(idle, name=f"run-{secrets.token_hex(3)}", state=Running())


def state_of(client: SyncPrefectClient, run: FlowRun) -> State:
    state = client.read_flow_run(run.id).state
    assert state is not None
    return state


def is_lost(client: SyncPrefectClient, run: FlowRun, keeping: Reconciler, machine: str = "here") -> bool:
    return run.id in [found.id for found in keeping._lost(client, machine)]


def test_a_run_that_was_not_heard_of_is_lost_and_said_to_be(client, run, monkeypatch):
    keeping = Reconciler()
    assert not is_lost(client, run, keeping)
    monkeypatch.setattr(reconciler, "LOST_SECONDS", 0.2)
    time.sleep(0.5)
    assert is_lost(client, run, keeping)
    keeping.tidy(client)
    state = state_of(client, run)
    assert state.is_crashed() and "pippa runs resume" in str(state.message)


def test_a_silent_run_of_another_machine_is_left_alone(client, run, monkeypatch):
    monkeypatch.setattr(reconciler, "LOST_SECONDS", 0.2)
    client.update_flow_run_labels(run.id, {gpu_leases.MACHINE: "another"})
    here, there = Reconciler(), Reconciler()
    assert not is_lost(client, run, here) and not is_lost(client, run, there, "another")
    time.sleep(0.5)
    assert not is_lost(client, run, here) and is_lost(client, run, there, "another")


def test_silence_counts_from_the_servers_return_on(client, run, prefect_environ, monkeypatch):
    # A round fails when the server is gone, and not a minute of retries later.
    monkeypatch.setenv("PREFECT_CLIENT_MAX_RETRIES", "0")
    refresh_global_settings_context()
    url = urlsplit(prefect_environ["PREFECT_API_URL"])
    with proxy(str(url.hostname), url.port or 0) as way:

        def through() -> SyncPrefectClient:
            api = f"http://127.0.0.1:{way.port}/api"
            return SyncPrefectClient(api, auth_string=prefect_environ["PREFECT_API_AUTH_STRING"])

        monkeypatch.setattr(reconciler, "sync_client", through)
        with Reconciler(seconds=0.1) as keeping:
            until(lambda: run.id in keeping._heard)
            way.cut()
            until(lambda: not keeping._heard)  # a round has failed
            monkeypatch.setattr(reconciler, "LOST_SECONDS", 3.0)
            time.sleep(reconciler.LOST_SECONDS)
            back = datetime.now(UTC)
            way.mend()
            until(lambda: state_of(client, run).is_crashed())
            assert state_of(client, run).timestamp >= back + timedelta(seconds=reconciler.LOST_SECONDS)


@pytest.mark.parametrize("off", [timedelta(), timedelta(hours=12), timedelta(hours=-12)])
def test_a_run_whose_process_lives_is_heard_of_whatever_its_clock_says(client, run, off, monkeypatch):
    monkeypatch.setattr(reconciler, "LOST_SECONDS", 0.2)
    keeping = Reconciler()
    assert not is_lost(client, run, keeping)
    before = reconciler._words(client, run.id)
    time.sleep(0.3)
    emit_event(
        "prefect.flow-run.heartbeat",
        {"prefect.resource.id": f"prefect.flow-run.{run.id}"},
        occurred=datetime.now(UTC) + off,
    )
    until(lambda: reconciler._words(client, run.id) != before)
    assert not is_lost(client, run, keeping)
    time.sleep(0.3)
    assert is_lost(client, run, keeping)  # one word is no life


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
