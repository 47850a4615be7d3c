from __future__ import annotations

import pytest

from trainer.config.argv import resolve
from trainer.config.run_spec import RunSpec, SnapshotRef
from trainer.errors import UsageError
from trainer.runner.joining import require_job
from trainer.runner.nodes import Node, this_node
from trainer.runner.placement import placed
from trainer.runner.run_spec_builder import new_spec


@pytest.mark.parametrize(
    ("environ", "node"),
    [
        ({"PET_NODE_RANK": "1", "PET_MASTER_ADDR": "a", "PET_MASTER_PORT": "7"}, Node(1, 2, "a", 7)),
        ({"PET_NODE_RANK": "0", "PET_NNODES": "2", "PET_MASTER_ADDR": "a"}, Node(0, 2, "a", 29400)),
        (
            {"SKYPILOT_NODE_RANK": "1", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2"},
            Node(1, 2, "10.0.0.1"),
        ),
        ({"JOB_COMPLETION_INDEX": "1", "PET_MASTER_ADDR": "job-0.job"}, Node(1, 2, "job-0.job")),
    ],
    ids=["by hand", "kubeflow", "skypilot", "kubernetes"],
)
def test_who_a_node_is_is_read_from_what_started_it(environ, node):
    assert this_node(2, environ) == node
    assert this_node(1, environ) == Node()


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, "which of them"),
        ({"PET_NODE_RANK": "0"}, "where node 0 is"),
        ({"PET_NODE_RANK": "2", "PET_MASTER_ADDR": "a"}, "PET_NODE_RANK is '2'"),
        ({"PET_NODE_RANK": "-1", "PET_MASTER_ADDR": "a"}, "PET_NODE_RANK is '-1'"),
        ({"SKYPILOT_NODE_RANK": "0", "SKYPILOT_NUM_NODES": "4", "SKYPILOT_NODE_IPS": "a"}, "SKYPILOT_NUM_NODES is 4"),
        ({"PET_NODE_RANK": "0", "PET_MASTER_ADDR": "a", "PET_MASTER_PORT": "http"}, "PET_MASTER_PORT"),
    ],
)
def test_what_is_missing_or_contradicts_is_named(environ, said):
    with pytest.raises(UsageError, match=said):
        this_node(2, environ)


def test_several_nodes_need_something_that_makes_them_one_run():
    require_job(Node(), None)
    require_job(Node(1, 2), "kitchen")
    with pytest.raises(UsageError, match="one run") as refused:
        require_job(Node(1, 2), None)
    assert "--job ID" in refused.value.hint


def spec(*flags: str):
    dataset = SnapshotRef(kind="dataset", name="synthetic.PickNPlace", digest="d" * 64)
    return new_spec(*resolve("smoke", flags), [dataset], SnapshotRef(kind="model", name="tiny", digest="b" * 64))


def test_a_run_on_other_devices_keeps_its_global_batch():
    run = spec("--num-nodes", "2", "--num-gpus", "4", "--batch-size", "3")
    assert run.config.global_batch == 24 and run.config.global_batch_formula == "24 = 3 × 4 GPUs × 2 nodes"
    alone, said = placed(run, {"num_nodes": "1", "num_gpus": 2}, "trainer run")
    assert (alone.config.global_batch, alone.config.gradient_accumulation_steps) == (24, 4)
    assert "2 processes in place of 8: --gradient-accumulation-steps 4 in place of 1" in said
    back, _ = placed(alone, {"num_nodes": 2, "num_gpus": 4}, "trainer run")
    assert back.config == run.config
    assert placed(run, {}, "trainer run") == (run, "")
    with pytest.raises(UsageError, match="3 processes") as refused:
        placed(run, {"num_nodes": 1, "num_gpus": 3}, "trainer run")
    assert "divides 8" in refused.value.hint
    with pytest.raises(UsageError, match="--num-nodes"):
        placed(run, {"num_nodes": "none"}, "trainer run")


def test_groups_that_divide_the_model_stay_where_the_gpus_make_them():
    run = spec("--num-nodes", "2", "--num-gpus", "4", "--fsdp", "--fsdp-devices", "4")
    assert run.config.shards == 4

    def shards(**devices: object) -> int:
        return placed(run, devices, "trainer run")[0].config.shards

    assert shards(num_nodes=1) == 4 and shards(num_nodes=4, num_gpus=2) == 4
    assert shards(num_nodes=1, num_gpus=2) == 2  # all there are
    assert shards(fsdp_devices=2) == 2 and shards(fsdp_devices=0) == 8
    assert shards(fsdp=False) == shards(fsdp=False, num_nodes=1, num_gpus=1) == 1
    with pytest.raises(UsageError, match="--fsdp-devices: 8 GPUs make no groups"):
        shards(fsdp_devices=3)


def test_a_run_of_n17_keeps_its_global_batch_too():
    dataset = SnapshotRef(kind="dataset", name="synthetic.PickNPlace", digest="d" * 64)
    base = SnapshotRef(kind="model", name="tiny-n17", digest="b" * 64)
    flags = ["--num-nodes", "2", "--num-gpus", "2", "--global-batch-size", "8"]
    run = new_spec(*resolve("smoke-n17", flags), [dataset], base)
    assert (run.config.batch_size, run.config.global_batch) == (2, 8)
    alone, said = placed(run, {"num_nodes": 1}, "trainer run")
    assert (alone.config.batch_size, alone.config.global_batch) == (2, 8) and "steps 2 in place of 1" in said
    assert RunSpec.model_validate_json(alone.model_dump_json()).config == alone.config


def test_a_run_with_an_odd_global_batch_says_what_would_do():
    run = spec("--num-nodes", "3", "--batch-size", "2")
    with pytest.raises(UsageError, match="a global batch of 6, which 2 processes of 2 samples each can't make"):
        placed(run, {"num_nodes": 2}, "trainer run")
