"""``pippa evaluate``: checkpoints of a real store, in a separate trainer."""

from __future__ import annotations

import json

import pytest

from flows import cli
from tests.support.evaluations import evaluation
from tests.support.registered import another, tiny_checkpoint
from trainer.errors import ExitCode
from trainer.store import registry


@pytest.fixture
def entry(object_store, s3_settings, monkeypatch, tmp_path) -> registry.CheckpointEntry:
    settings = {**s3_settings.to_environ(), "PIPPA_HOME": str(tmp_path / "home"), "COLUMNS": "200"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return tiny_checkpoint(object_store, tmp_path)


@pytest.mark.slow
def test_checkpoints_of_a_run_are_compared_on_chosen_episodes(entry, object_store, tmp_path, capsys):
    later = another(entry, object_store, tmp_path, 60)
    flags = ["--episodes", "1", "--no-ablations"]
    assert cli.main(["evaluate", entry.run_id, "--all", *flags, "--json"]) == ExitCode.DONE
    printed = capsys.readouterr()
    documents = json.loads(printed.out)
    assert [each["checkpoint"] for each in documents] == [entry.name, later.name]
    assert [[episode["episode"] for episode in each["episodes"]] for each in documents] == [[1], [1]]
    assert len(documents[0]["joints"]) == 26 and documents[0]["hold_still_mse"] > 0
    assert documents[0]["mse"] != documents[1]["mse"]
    # The dataset was fetched once for both, and a stretch of it decides nothing.
    assert printed.err.count("Fetching own") == 1
    assert registry.resolve(object_store, entry.name).evaluation is None

    assert cli.main(["evaluate", "smoke/latest", *flags]) == ExitCode.DONE
    shown = capsys.readouterr().out
    assert later.name in shown and "of holding still" in shown and "RMS error" in shown
    assert "✗ It has not learned the task" in shown
    evaluated = evaluation({"a": 0.1, "b": 0.3}, {"a"}, still=0.4)
    registry.add_metrics(object_store, entry.run_id, entry.step, evaluated.metrics(), evaluated)
    assert cli.main(["checkpoints", "show", "smoke/best"]) == ExitCode.DONE
    shown = capsys.readouterr().out
    assert "on 1 held-out episode" in shown and "decided on its own evaluation on 1 held-out episode" in shown
    assert cli.main(["checkpoints", "list"]) == ExitCode.DONE
    assert " 75% " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nobody/best"], "There is no checkpoint 'nobody/best'"),
        (["latest", "--dataset", "elsewhere"], "There is no dataset 'elsewhere'"),
        (["latest", "--launcher", "remote"], "is not one of process, docker"),
    ],
)
def test_what_does_not_exist_is_said(entry, capsys, argv, message):
    assert cli.main(["evaluate", *argv]) == ExitCode.USAGE
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_closed_loop_says_how_far_it_got(entry, capsys):
    assert cli.main(["evaluate", "smoke/latest", "--closed-loop", "--trials", "1"]) == ExitCode.DONE
    heading, figures = capsys.readouterr().out.splitlines()
    assert heading.split() == "checkpoint success 95% interval reached grasped lifted trials".split()
    assert figures.split()[:5] == [entry.name, "0%", "0%", "to", "79%"] and figures.split()[-1] == "1"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--trials", "3"], "--trials is for --closed-loop"),
        (["--closed-loop", "--trials", "0"], "must be 1 or more"),
        (["--closed-loop", "--seed", "-1"], "must be 0 or more"),
        (["--closed-loop", "--dataset", "own"], "makes its scenes, and takes no --dataset"),
    ],
)
def test_flags_of_the_other_evaluation_are_refused(flags, said, capsys):
    assert cli.main(["evaluate", "smoke/latest", *flags]) == ExitCode.USAGE
    assert said in capsys.readouterr().err
