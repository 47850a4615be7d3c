"""A worker with real containers: after any cancellation or kill no container is left and no training lost."""

from __future__ import annotations

import os
import signal

import pytest

from flows.orchestration.gpu_leases import WAITING
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.docker


def test_a_cancelled_training_saves_and_leaves_no_container(team):
    flow_run_id = team.train()
    container = team.training(flow_run_id)
    team.cancel(flow_run_id)
    team.reach(flow_run_id, "Cancelled")
    assert team.containers(team.run(flow_run_id).name) == []
    # Told once, it saved; told twice, it would have ended with 1.
    assert team.exit_code(container) == 143


@pytest.mark.slow
def test_a_training_whose_flow_was_killed_saves_and_leaves_no_container(team):
    flow_run_id = team.train()
    container = team.training(flow_run_id)
    [process] = team.flow_processes(flow_run_id)
    os.kill(process, signal.SIGKILL)
    team.reach(flow_run_id, "Crashed")
    until(lambda: team.containers(team.run(flow_run_id).name) == [], team.workers_words)
    assert team.exit_code(container) == 143


@pytest.mark.slow
def test_one_trains_and_the_other_is_seen_to_wait(team):
    first = team.train()
    team.training(first)
    second = team.train("smoke")
    team.reach(second, WAITING)
    assert team.run(first).name in team.run(second).state.message
    assert team.containers(team.run(second).name) == []
    team.cancel(first)
    team.reach(second, "Completed")


def in_a_terminal(team, name):
    """The process of a training that was typed in the terminal ``name`` and has begun, its run and its flow run."""
    flags = ("--dataset-path", "synthetic.PickNPlace", "--base-model-path", "a-model")
    process = team.spawn(name, "train", "overfit-demo", *flags)
    words, alive = lambda: team.words(name), lambda: process.poll() is None
    until(lambda: "step 1/" in words(), words, alive=alive)
    run_id = team.words(name).split()[0]
    with team.api() as client:
        from flows.orchestration.remote import find

        return process, run_id, find(client, run_id).id


@pytest.mark.slow
def test_a_training_in_a_terminal_is_cancelled_in_the_pages(team):
    process, run_id, flow_run_id = in_a_terminal(team, "terminal")
    container = team.training(flow_run_id)
    team.cancel(flow_run_id)
    assert process.wait(PATIENCE) == 130, team.words("terminal")
    assert team.state(flow_run_id) == "Cancelled" and team.containers(run_id) == []
    assert team.exit_code(container) == 143 and f"pippa runs resume {run_id}" in team.words("terminal")


@pytest.mark.slow
def test_a_training_whose_terminal_was_killed_is_attached_to(team):
    process, run_id, flow_run_id = in_a_terminal(team, "killed")
    container = team.training(flow_run_id)
    process.kill()
    process.wait()
    resumed = team.spawn("resumed", "runs", "resume", run_id, PIPPA_LAUNCHER="")
    words, alive = lambda: team.words("resumed"), lambda: resumed.poll() is None
    until(lambda: "step " in words(), words, alive=alive)
    [followed] = team.containers(run_id)
    assert followed.id == container.id
    # It has the GPU that the killed one held, before that one's lease ends.
    assert WAITING not in team.words("resumed")
    resumed.send_signal(signal.SIGINT)
    assert resumed.wait(PATIENCE) == 130, team.words("resumed")
    assert team.exit_code(container) == 143 and team.containers(run_id) == []


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_training_outlives_its_worker_and_the_next_one_follows_it(team, how):
    flow_run_id = team.train()
    container = team.training(flow_run_id)
    for worker in team.running_workers():
        os.kill(worker.pid, how)
        worker.wait(PATIENCE)
    if how == signal.SIGKILL:  # in a container they go with it
        for process in team.flow_processes(flow_run_id):
            os.kill(process, signal.SIGKILL)
    until(lambda: team.flow_processes(flow_run_id) == [])
    container.reload()
    assert container.status == "running" and team.state(flow_run_id) == "Running"

    team.worker(f"next-{how.name}")
    assert "it continues" in team.words(f"next-{how.name}")
    until(lambda: f"{team.run(flow_run_id).name}' - Step" in team.words(f"next-{how.name}"))
    [followed] = team.containers(team.run(flow_run_id).name)
    assert followed.id == container.id
    team.cancel(flow_run_id)
    team.reach(flow_run_id, "Cancelled")
    assert team.exit_code(container) == 143


@pytest.mark.slow
def test_a_flow_whose_worker_was_killed_follows_on_and_can_be_cancelled(team):
    flow_run_id = team.train()
    container = team.training(flow_run_id)
    for worker in team.running_workers():
        worker.kill()
        worker.wait()
    [process] = team.flow_processes(flow_run_id)
    for times in (1, 2):  # what it writes now nobody reads; Prefect's server gets it too
        container.kill(signal="SIGUSR1")
        until(lambda times=times: team.logged(flow_run_id).count("asked to say something ") == times)
    container.reload()
    assert container.status == "running" and team.flow_processes(flow_run_id) == [process]
    team.cancel(flow_run_id)
    team.reach(flow_run_id, "Cancelled")
    assert team.containers(team.run(flow_run_id).name) == [] and team.exit_code(container) == 143


@pytest.mark.slow
def test_what_is_cancelled_while_no_worker_lives_ends_with_the_next(team):
    flow_run_id = team.train()
    container = team.training(flow_run_id)
    for worker in team.running_workers():
        worker.terminate()
        worker.wait(PATIENCE)
    team.cancel(flow_run_id)
    team.worker("late")
    assert team.state(flow_run_id) == "Cancelled" and team.containers(team.run(flow_run_id).name) == []
    assert team.exit_code(container) == 143
