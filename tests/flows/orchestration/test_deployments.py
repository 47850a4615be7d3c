"""The table of deployments on a real Prefect server."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.exceptions import ObjectNotFound
from prefect.flows import load_flow_from_entrypoint

from flows.orchestration.cancellation import FLOWS
from flows.orchestration.deployments import QUEUES, SCHEDULES, Timetable, deployments, flow_name, names
from flows.orchestration.parameters import given
from flows.orchestration.register_deployments import code_version, register
from trainer.config.presets import PRESETS

POOL = "test-pool"
TABLE = deployments("docker", "native")
# Two are enough where it does not matter which, and each takes the server a quarter of a second.
TWO = [each for each in TABLE if names([each])[0] in ("train/smoke", "gc/gc")]
THEIR_SCHEDULES = [each for each in SCHEDULES if each.deployment in names(TWO)]


def test_every_preset_and_flow_has_one():
    found = names(TABLE)
    assert [f"train/{preset}" for preset in PRESETS] == found[: len(PRESETS)]
    assert {"pull-dataset/pull-dataset", "evaluate/evaluate", "gc/gc"} <= set(found)
    flows = {each.entrypoint: load_flow_from_entrypoint(each.entrypoint) for each in TABLE}
    assert {flow.name for flow in flows.values()} == {flow_name(each) for each in TABLE} == set(FLOWS)
    assert {each.queue for each in TABLE} == set(QUEUES)
    assert {each.deployment for each in SCHEDULES} <= set(found)
    assert not any(each.active for each in SCHEDULES)


def test_the_server_gets_the_table(client):
    assert register(client, TABLE, SCHEDULES, POOL) == []
    assert client.read_work_pool(POOL).type == "process"
    blog = client.read_deployment_by_name("train/blog")
    assert blog.entrypoint == "flows.orchestration.train.train" and blog.path is None and not blog.pull_steps
    assert (blog.work_pool_name, blog.work_queue_name, blog.version) == (POOL, "training", code_version())
    assert blog.parameters == {"preset": "blog", "overrides": {}, "launcher": "docker", "engine": "native"}
    assert {"pippa", "so101"} <= set(blog.tags) and PRESETS["blog"].summary in str(blog.description)
    assert blog.enforce_parameter_schema
    form = blog.parameter_openapi_schema["definitions"]["Overrides"]["properties"]
    assert form["max_steps"]["description"] == "Optimizer steps. In blog: 10000."
    [weekly] = client.read_deployment_by_name("gc/gc").schedules
    assert isinstance(weekly.schedule, CronSchedule) and not weekly.active


def test_again_changes_nothing_that_a_person_made_in_the_pages(client):
    register(client, TWO, THEIR_SCHEDULES, POOL)
    gc = client.read_deployment_by_name("gc/gc")
    [ours] = gc.schedules
    client.update_deployment_schedule(gc.id, ours.id, active=True)
    client.create_deployment_schedules(gc.id, [(IntervalSchedule(interval=timedelta(hours=6)), True)])
    queue = client.read_work_queue_by_name("training", work_pool_name=POOL)
    client.update_work_queue(queue.id, is_paused=True)
    theirs = client.create_deployment(client.create_flow_from_name("theirs"), "own", work_pool_name=POOL)

    moved = [replace(each, when=CronSchedule(cron="5 5 * * 0", timezone="UTC")) for each in THEIR_SCHEDULES]
    assert register(client, TWO, moved, POOL) == []
    found = {each.slug: each for each in client.read_deployment_by_name("gc/gc").schedules}
    assert len(found) == 2 and found[None].active
    assert found[ours.slug].active and getattr(found[ours.slug].schedule, "cron", "") == "5 5 * * 0"
    assert client.read_work_queue_by_name("training", work_pool_name=POOL).is_paused
    assert client.read_deployment(theirs).name == "own"


def test_what_pippa_has_no_more_goes(client):
    old = [*TWO, replace(TWO[0], name="of-last-year")]
    register(client, old, [*THEIR_SCHEDULES, Timetable("gc/gc", "daily", CronSchedule(cron="0 1 * * *"))], POOL)
    assert register(client, TWO, THEIR_SCHEDULES, POOL) == ["train/of-last-year"]
    with pytest.raises(ObjectNotFound):
        client.read_deployment_by_name("train/of-last-year")
    assert [each.slug for each in client.read_deployment_by_name("gc/gc").schedules if each.slug] == ["weekly"]


def test_a_schedule_that_a_person_named_stays(client):
    register(client, TWO, THEIR_SCHEDULES, POOL)
    smoke = client.read_deployment_by_name("train/smoke")
    mine = DeploymentScheduleCreate(schedule=IntervalSchedule(interval=timedelta(hours=6)), slug="mine")
    client.create_deployment_schedules(smoke.id, [mine])
    # Also one of a name that pippa gave up before.
    daily = Timetable("train/smoke", "daily", CronSchedule(cron="0 1 * * *"))
    for table in ([*THEIR_SCHEDULES, daily], THEIR_SCHEDULES):
        register(client, TWO, table, POOL)
    client.create_deployment_schedules(smoke.id, [mine.model_copy(update={"slug": "daily"})])
    register(client, TWO, THEIR_SCHEDULES, POOL)
    slugs = {each.slug for each in client.read_deployment_by_name("train/smoke").schedules}
    assert slugs == {"nightly", "mine", "daily"}


@pytest.mark.slow
def test_a_schedule_of_an_earlier_pippa_runs_with_what_it_was_made_for(client):
    register(client, TABLE, SCHEDULES, POOL)
    deployment = client.read_deployment_by_name("train/overfit-long")
    every = IntervalSchedule(interval=timedelta(hours=6))
    stored = {"overrides": {"tune_visual": True, "tune_llm": False, "max_steps": 30}}
    for slug in ("mine", None):
        made = DeploymentScheduleCreate(schedule=every, parameters=stored, slug=slug, active=True)
        client.create_deployment_schedules(deployment.id, [made])
    table = [*SCHEDULES, Timetable("train/overfit-long", "ours", CronSchedule(cron="0 1 * * *"), stored, active=True)]
    for _ in range(2):  # a restart of the worker changes nothing more
        register(client, TABLE, table, POOL)
    found = client.read_deployment_by_name("train/overfit-long").schedules
    wanted = {"overrides": {"tune_visual": "yes", "tune_llm": "no", "max_steps": 30}}
    assert {each.slug: each.parameters for each in found} == dict.fromkeys(("mine", None, "ours"), wanted)
    client.request("POST", "/deployments/{id}/schedule", path_params={"id": deployment.id}, json={"min_runs": 3})
    of_this = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment.id]))
    scheduled = client.read_flow_runs(flow_run_filter=of_this)
    assert scheduled and all(given(run.parameters["overrides"]) == stored["overrides"] for run in scheduled)
    # As somebody starts one of them at once, which the server validates.
    assert client.create_flow_run_from_deployment(deployment.id, parameters=scheduled[0].parameters)
