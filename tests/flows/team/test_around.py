"""The flows around training, on a worker: evaluation in a container, what is in the store, what can go."""

from __future__ import annotations

import pytest

from tests.flows.team.conftest import OVERRIDES
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.run_spec import RunSpec, WandbSpec, new_run_id
from trainer.store import registry, snapshots

pytestmark = [pytest.mark.docker, pytest.mark.slow]


def report(team, key: str) -> str:
    with team.api() as client:
        return client.request("GET", "/artifacts/{key}/latest", path_params={"key": key}).json()["data"]


def test_an_evaluation_leaves_its_metrics_and_no_container(team):
    folder = team.folder / "a-model"
    run_id = new_run_id("smoke")
    dataset = snapshots.latest(team.store, "dataset", "synthetic.PickNPlace")
    base_model = snapshots.latest(team.store, "model", "a-model")
    assert dataset and base_model
    spec = RunSpec(
        run_id=run_id,
        preset="smoke",
        config=FinetuneConfig(dataset_path=OVERRIDES["dataset_path"]),
        provenance={},
        datasets=[dataset],
        base_model=base_model,
        wandb=WandbSpec(entity="e", project="p", name="n", run_id=run_id, group="g"),
    )
    ref = snapshots.push(team.store, folder, "checkpoint", run_id).ref
    registry.register(team.store, registry.CheckpointEntry(run_id=run_id, step=100, snapshot=ref, spec=spec))
    flow_run_id = team.start("evaluate/evaluate", {"checkpoint": "latest"})
    team.reach(flow_run_id, "Completed")
    assert "| open_loop_mse | 0.125 |" in report(team, f"evaluation-{run_id}-100")
    assert team.containers(str(flow_run_id)) == []


def test_an_unknown_checkpoint_is_said(team):
    flow_run_id = team.start("evaluate/evaluate", {"checkpoint": "nobody/best"})
    team.reach(flow_run_id, "Failed")
    assert "nobody/best" in team.run(flow_run_id).state.message


def test_a_dataset_that_is_there_is_recorded_and_not_brought_again(team):
    flow_run_id = team.start("pull-dataset/pull-dataset", {"name": "synthetic.PickNPlace", "data_config": None})
    team.reach(flow_run_id, "Completed")
    ref = snapshots.latest(team.store, "dataset", "synthetic.PickNPlace")
    assert ref is not None and ref.digest in report(team, "dataset-synthetic-picknplace")


def test_garbage_is_reported(team):
    flow_run_id = team.start("gc/gc", {})
    team.reach(flow_run_id, "Completed")
    assert "would be freed" in report(team, "gc")
