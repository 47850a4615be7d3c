"""Prefect's side of the stack: deployments, a schedule, a cancelled run, the web page. After test_compose_stack."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows.orchestration.parameters import given
from tests.e2e.screens import browser, picture_folder
from tests.e2e.stack import Stack
from tests.support.waiting import until
from trainer.config.presets import PRESETS

pytestmark = [pytest.mark.docker, pytest.mark.slow]

SHORT = {"max_steps": 20, "save_steps": 10}
ONLY_TRAINS = {"evaluate": "none"}
"""Where no report is looked at: an evaluation takes longer than such a training."""


def deployment(stack: Stack, name: str) -> dict[str, Any]:
    with stack.api() as api:
        answer = api.get(f"/deployments/name/{name}")
        return answer.json() if answer.status_code == 200 else {}


def flow_run(stack: Stack, run_id: str) -> dict[str, Any]:
    with stack.api() as api:
        return api.get(f"/flow_runs/{run_id}").raise_for_status().json()


def answers(stack: Stack) -> bool:
    """Whether Prefect is there, with its database."""
    with suppress(httpx.HTTPError), stack.api() as api:
        return api.post("/flow_runs/filter", json={"limit": 1}).is_success
    return False


def state(stack: Stack, run_id: str) -> str:
    return flow_run(stack, run_id)["state"]["type"]


def artifacts(stack: Stack, run_id: str) -> list[dict[str, Any]]:
    with stack.api() as api:
        wanted = {"artifacts": {"flow_run_id": {"any_": [run_id]}}, "sort": "CREATED_DESC"}
        return api.post("/artifacts/filter", json=wanted).raise_for_status().json()


def submit(stack: Stack, name: str, parameters: dict[str, Any]) -> str:
    found = deployment(stack, name)
    with stack.api() as api:
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        return api.post(f"/deployments/{found['id']}/create_flow_run", json=body).raise_for_status().json()["id"]


@pytest.fixture(scope="module", autouse=True)
def running_stack(stack: Stack) -> Iterator[None]:
    """All services, the worker's deployments registered; stopped afterwards: other tests want the machine."""
    done = stack.compose("up", "-d", "--build", stage="docker compose up -d", timeout=1800)
    assert done.returncode == 0, done.stdout[-3000:]
    until(lambda: deployment(stack, "gc/gc") and deployment(stack, "train/smoke"), "the deployments")
    yield
    stack.compose("stop", "--timeout", "5")


def test_every_preset_and_chore_is_a_deployment(stack: Stack) -> None:
    with stack.api() as api:
        found = api.post("/deployments/filter", json={}).raise_for_status().json()
    names = {each["name"] for each in found}
    assert names == {*PRESETS, "default", "pull-dataset", "pull-base-model", "evaluate", "gc"}
    assert not any(schedule["active"] for each in found for schedule in each["schedules"])


def test_the_api_asks_for_the_password(stack: Stack) -> None:
    with stack.api() as api:
        assert api.post("/deployments/filter", json={}, auth=("pippa", "guessed")).status_code == 401


def test_a_schedule_trains(stack: Stack) -> None:
    found = deployment(stack, "train/smoke")
    # A time that has passed when Prefect sees the schedule is not made up for.
    soon = datetime.now(UTC) + timedelta(seconds=40)
    schedule = {"interval": 86_400, "anchor_date": soon.isoformat(), "timezone": "UTC"}
    began = time.monotonic()
    with stack.api() as api:
        made = (
            api.post(
                f"/deployments/{found['id']}/schedules",
                json=[{"schedule": schedule, "active": True, "parameters": {"overrides": SHORT}}],
            )
            .raise_for_status()
            .json()[0]
        )

        def scheduled() -> dict[str, Any] | None:
            wanted = {"flow_runs": {"deployment_id": {"any_": [found["id"]]}}, "sort": "EXPECTED_START_TIME_ASC"}
            runs = api.post("/flow_runs/filter", json=wanted).raise_for_status().json()
            return next((run for run in runs if run["auto_scheduled"]), None)

        run = until(scheduled, "the scheduled flow run")
        until(lambda: state(stack, run["id"]) in ("COMPLETED", "FAILED", "CRASHED"), "the end of the scheduled run")
        stack.times.append(("a scheduled training of 20 steps, from its schedule's creation", time.monotonic() - began))
        api.delete(f"/deployments/{found['id']}/schedules/{made['id']}").raise_for_status()
    assert state(stack, run["id"]) == "COMPLETED"
    assert any("open-loop" in str(artifact["data"]) for artifact in artifacts(stack, run["id"]))
    assert stack.trainings() == []


def test_a_cancelled_run_saves_and_leaves_no_container(stack: Stack, tmp_path: Path) -> None:
    run = submit(stack, "train/smoke", {"overrides": {"max_steps": 50_000, "save_steps": 10_000}})
    until(stack.trainings, "the training container")

    def stepped() -> bool:
        return any(artifact["type"] == "progress" and artifact["data"] > 0 for artifact in artifacts(stack, run))

    until(stepped, "progress")
    folder = picture_folder(tmp_path)
    auth = (stack.clone / ".pippa/stack/prefect_api_auth_string").read_text()
    with browser(f"http://127.0.0.1:{stack.prefect_port}", folder) as screens:
        screens.sign_in(auth)
        screens.shot("prefect-running", f"runs/flow-run/{run}?tab=Artifacts", "Artifacts")
    began = time.monotonic()
    with stack.api() as api:
        api.post(f"/flow_runs/{run}/set_state", json={"state": {"type": "CANCELLING"}}).raise_for_status()
    until(lambda: state(stack, run) == "CANCELLED", "the cancellation")
    until(lambda: not stack.trainings(), "the end of the container")
    stack.times.append(("cancel a training: saved, uploaded, container gone", time.monotonic() - began))
    stopped = flow_run(stack, run)["name"]
    assert stack.checkpoints(stopped)


def test_a_training_outlives_every_server_of_the_stack(stack: Stack) -> None:
    run = submit(stack, "train/smoke", {"overrides": {"max_steps": 600, "save_steps": 200} | ONLY_TRAINS})
    # Not the one that brings the sources before it.
    until(lambda: f"pippa-{flow_run(stack, run)['name']}" in stack.trainings(), "the training container")
    training = f"pippa-{flow_run(stack, run)['name']}"
    until(lambda: '"step":' in stack.shown(training), lambda: stack.shown(training))
    for server in ("worker", "prefect", "postgres", "minio"):
        killed = stack.compose("kill", server)
        assert killed.returncode == 0, killed.stdout
        time.sleep(3)  # somebody needs it by now
        assert stack.compose("start", server).returncode == 0
        assert stack.trainings() in ([training], [])  # never a second one, and none only once it has ended
    until(lambda: answers(stack), "Prefect")
    until(lambda: state(stack, run) in ("COMPLETED", "FAILED", "CRASHED"), "the end of the run", seconds=900)
    assert state(stack, run) == "COMPLETED"
    until(lambda: not stack.trainings(), "the end of the container")
    name = flow_run(stack, run)["name"]
    assert stack.checkpoints(name) == [f"{name}/{step}" for step in (200, 400, 600)]


def test_a_run_submitted_from_the_host_is_followed_there(stack: Stack) -> None:
    done = stack.pippa(
        *("train", "smoke", "--max-steps", "20", "--save-steps", "10", "--evaluate", "none", "--launcher", "remote"),
        stage="pippa train smoke --launcher remote, 20 steps",
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "step 20/20" in done.stdout


def test_the_host_launches_a_container_itself(stack: Stack) -> None:
    done = stack.pippa(
        *("train", "smoke", "--max-steps", "20", "--save-steps", "10", "--evaluate", "none", "--launcher", "docker"),
        stage="pippa train smoke --launcher docker on the host, 20 steps",
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert stack.trainings() == []


def test_the_web_page_shows_deployments_form_and_report(stack: Stack, tmp_path: Path) -> None:
    run = submit(stack, "train/smoke", {"overrides": SHORT})
    until(lambda: state(stack, run) in ("COMPLETED", "FAILED", "CRASHED"), "the end of the run")
    assert state(stack, run) == "COMPLETED"
    report = next(each for each in artifacts(stack, run) if each["type"] == "markdown")
    folder = picture_folder(tmp_path)
    auth = (stack.clone / ".pippa/stack/prefect_api_auth_string").read_text()
    with browser(f"http://127.0.0.1:{stack.prefect_port}", folder) as screens:
        screens.sign_in(auth)
        screens.shot("prefect-deployments", "deployments", "train")  # which ones are on the first page is its choice
        form = deployment(stack, "train/overfit-demo")["id"]
        screens.shot("prefect-form", f"deployments/deployment/{form}/run", "overrides", "preset")
        screens.shot("prefect-report", f"artifacts/artifact/{report['id']}", "open-loop", "Training loss")
        until(lambda: screens.pictures() >= 3, "the report's pictures")


def test_a_field_of_the_form_changes_that_argument_of_the_run_and_no_other(stack: Stack, tmp_path: Path) -> None:
    form = deployment(stack, "train/smoke")["id"]
    auth = (stack.clone / ".pippa/stack/prefect_api_auth_string").read_text()
    with browser(f"http://127.0.0.1:{stack.prefect_port}", picture_folder(tmp_path)) as screens:
        screens.sign_in(auth)
        screens.shot("form-before", f"deployments/deployment/{form}/run", "tune_visual")
        screens.choose("tune_visual", "yes")
        screens.submit()

    def submitted() -> dict[str, Any] | None:
        wanted = {"flow_runs": {"deployment_id": {"any_": [form]}}, "sort": "EXPECTED_START_TIME_DESC"}
        with stack.api() as api:
            runs = api.post("/flow_runs/filter", json=wanted).raise_for_status().json()
        return next((run for run in runs if run["parameters"]["overrides"].get("tune_visual") == "yes"), None)

    run = until(submitted, "the run of the form")
    with stack.api() as api:
        api.post(f"/flow_runs/{run['id']}/set_state", json={"state": {"type": "CANCELLING"}}).raise_for_status()
    assert given(run["parameters"]["overrides"]) == {"tune_visual": True}
