"""`pippa train --launcher remote`, from a machine that has nothing but Prefect's address."""

from __future__ import annotations

import signal

import pytest

from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.docker
FLAGS = ("--launcher", "remote", "--dataset-path", "synthetic.PickNPlace", "--base-model-path", "a-model")


@pytest.fixture
def laptop(team, request):
    """Start a command where the object store is unknown; its words are in the log of that name."""

    def start(*argv: str):
        environ = {name: value for name, value in team.environ.items() if not name.startswith("PIPPA_S3_")}
        team.environ, whole = environ, team.environ
        try:
            return team.spawn(request.node.name, *argv)
        finally:
            team.environ = whole

    return start


def test_a_training_elsewhere_is_seen_to_its_end(team, laptop, request):
    process = laptop("train", "smoke", *FLAGS)
    assert process.wait(PATIENCE) == 0, team.words(request.node.name)
    words = team.words(request.node.name)
    run_id = words.split()[0]
    assert "step 1/20" in words and "step 20/20" in words, words
    assert f"trained on {run_id}" in words or run_id in words.split("Submitted", 1)[1]


def test_it_ends_with_the_training_s_exit_code(team, laptop, request):
    process = laptop("train", "smoke", "--launcher", "remote", "--dataset-path", "no-such-dataset")
    assert process.wait(PATIENCE) == 2, team.words(request.node.name)
    assert "no-such-dataset" in team.words(request.node.name)


@pytest.mark.slow
def test_ctrl_c_only_stops_watching(team, laptop, request):
    name = request.node.name
    process = laptop("train", "overfit-demo", *FLAGS)
    until(lambda: "step 1/" in team.words(name), lambda: team.words(name))
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    run_id = team.words(name).split()[0]
    assert f"pippa runs follow {run_id}" in team.words(name)
    [container] = team.containers(run_id)
    assert container.status == "running"

    assert laptop("runs", "cancel", run_id).wait(PATIENCE) == 0, team.words(name)
    assert "Cancelled" in team.words(name) and team.containers(run_id) == []

    resumed = laptop("runs", "resume", run_id, "--launcher", "remote")
    until(lambda: [c.id for c in team.containers(run_id) if c.id != container.id], lambda: team.words(name))
    assert laptop("runs", "cancel", run_id).wait(PATIENCE) == 0 and resumed.wait(PATIENCE) == 143, team.words(name)


@pytest.mark.parametrize(
    ("flag", "named"),
    [
        (("--base-model-path", "./somewhere"), "pippa models add ./somewhere"),
        (("--batch-size", "0"), "batch"),
    ],
    ids=["folder", "value"],
)
def test_what_can_not_work_is_refused_here(team, laptop, request, flag, named):
    (team.folder / "somewhere").mkdir(exist_ok=True)
    (team.folder / "somewhere" / "config.json").write_text("{}")
    assert laptop("train", "smoke", "--launcher", "remote", *flag).wait(PATIENCE) == 2
    assert named in team.words(request.node.name)


def test_a_wrong_password_is_said(team, laptop, request):
    whole = team.environ
    team.environ = {**whole, "PREFECT_API_AUTH_STRING_FILE": "", "PREFECT_API_AUTH_STRING": "me:guess"}
    try:
        assert laptop("train", "smoke", *FLAGS).wait(PATIENCE) == 4
    finally:
        team.environ = whole
    assert "refuses the password" in team.words(request.node.name)
