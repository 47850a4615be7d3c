"""Submitting trainings to a real Prefect server; tests/flows/team has workers that carry them out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.states import Cancelled, Completed, Running, State

from flows.orchestration.deployments import POOL, deployments
from flows.orchestration.register_deployments import register
from flows.orchestration.remote import find, submit
from trainer.config.run_spec import new_run_id
from trainer.errors import UsageError


@pytest.fixture
def client(stack) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        register(client, deployments("docker", "native"), (), POOL)
        yield client


@pytest.mark.parametrize("end", [Cancelled(), Completed()], ids=["cancelled", "ended"])
def test_a_run_that_has_ended_is_resumed_as_a_new_flow_run(client, end: State) -> None:
    run_id = new_run_id("smoke")
    first = submit(client, "smoke", {"max_steps": 20}, None, run_id)
    client.set_flow_run_state(first.id, end, force=True)
    resumed = submit(client, "smoke", {}, None, run_id)
    assert resumed.id != first.id and resumed.parameters["run_id"] == run_id
    assert resumed.state is not None and resumed.state.is_scheduled()
    assert find(client, run_id).id == resumed.id


@pytest.mark.parametrize("state", [None, Running()], ids=["scheduled", "running"])
def test_a_run_that_goes_on_is_not_started_beside_itself(client, state: State | None) -> None:
    run_id = new_run_id("smoke")
    ended = submit(client, "smoke", {}, None, run_id)
    client.set_flow_run_state(ended.id, Cancelled(), force=True)
    going_on = submit(client, "smoke", {}, None, run_id)
    if state is not None:
        client.set_flow_run_state(going_on.id, state, force=True)
    with pytest.raises(UsageError, match="has not ended") as refused:
        submit(client, "smoke", {}, None, run_id)
    assert f"pippa runs follow {run_id}" in refused.value.hint
