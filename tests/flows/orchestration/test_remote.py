"""Submitting trainings to a real Prefect server; tests/flows/team has workers that carry them out."""

from __future__ import annotations

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.states import Cancelled, Completed, Running, State

from flows.orchestration.deployments import POOL, deployments
from flows.orchestration.register_deployments import register
from flows.orchestration.remote import find, of_group, submit
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.run_spec import RunSpec, SnapshotRef, WandbSpec, new_run_id
from trainer.errors import UsageError
from trainer.store.runs import write_spec
from trainer.store.stores import open_store


@pytest.fixture
def client(client: SyncPrefectClient) -> SyncPrefectClient:
    register(client, deployments("docker", "native"), (), POOL)
    return client


@pytest.mark.parametrize("end", [Cancelled(), Completed()], ids=["cancelled", "ended"])
def test_a_run_that_has_ended_is_resumed_as_a_new_flow_run(client, end: State) -> None:
    run_id = new_run_id("smoke")
    first = submit(client, "smoke", {"max_steps": 20}, None, run_id)
    client.set_flow_run_state(first.id, end, force=True)
    resumed = submit(client, "smoke", {}, None, run_id)
    assert resumed.id != first.id and resumed.parameters["run_id"] == run_id
    assert resumed.state is not None and resumed.state.is_scheduled()
    assert find(client, run_id).id == resumed.id


def test_a_run_that_this_server_never_saw_is_resumed_as_the_store_has_it(client) -> None:
    """As on an empty machine in place of one that was lost."""
    run_id, store = new_run_id("kitchen"), open_store()
    with pytest.raises(UsageError, match=f"There is no run {run_id}"):
        submit(client, None, {}, None, run_id)
    store.create()
    ref = SnapshotRef(kind="model", name="tiny", digest="0" * 64)
    own = SnapshotRef(kind="dataset", name="own", digest="0" * 64)
    wandb = WandbSpec(entity="e", project="p", name="n", run_id=run_id, group="g")
    config = FinetuneConfig(dataset_path=["own"], data_config="fourier_gr1_arms_only")
    write_spec(
        store,
        RunSpec(
            run_id=run_id, preset="smoke", config=config, provenance={}, datasets=[own], base_model=ref, wandb=wandb
        ),
    )
    resumed = submit(client, None, {}, None, run_id)
    assert resumed.deployment_id == client.read_deployment_by_name("train/smoke").id
    assert (resumed.parameters["preset"], resumed.parameters["run_id"]) == ("smoke", run_id)


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


def test_the_trainings_of_a_group_are_found_with_what_they_train_and_how_they_stand(client) -> None:
    ran, resumed, other = (new_run_id("smoke") for _ in range(3))
    done = submit(client, "smoke", {"learning_rate": 3e-3, "tune_llm": True}, None, ran, "kitchen")
    client.set_flow_run_state(done.id, Completed(), force=True)
    ended = submit(client, "smoke", {"batch_size": 4}, None, resumed, "kitchen")
    client.set_flow_run_state(ended.id, Cancelled(), force=True)
    submit(client, "smoke", {}, None, other, "elsewhere")
    assert done.job_variables == {"env.WANDB_RUN_GROUP": "kitchen"}
    first, second = of_group(client, "kitchen")
    assert (first.run_id, first.state, first.config.learning_rate, first.config.tune_llm) == (ran, "done", 3e-3, True)
    assert (second.run_id, second.state, second.config.batch_size) == (resumed, "ended", 4)
    submit(client, None, {}, None, resumed, "kitchen")
    again = of_group(client, "kitchen")[1]
    assert (again.run_id, again.state, again.config.batch_size) == (resumed, "active", 4)
