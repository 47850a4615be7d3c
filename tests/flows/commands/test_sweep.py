"""``pippa sweep``: its grid, what it refuses, and a sweep that is interrupted, fails in part, and is typed again."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import cli
from flows.orchestration import sweep
from tests.support.pippa import BarePippa, Pippa, bare_pippa
from tests.support.waiting import PATIENCE
from trainer.command_line import Parser
from trainer.config.grid import Grid, asked_grid
from trainer.config.training_flags import add_training_flags
from trainer.errors import UsageError
from trainer.store import runs, snapshots
from trainer.store.s3 import S3Store

SMOKE = ("sweep", "smoke", "--dry-run")
LESS = ("--evaluate", "none", "--report-to", "tensorboard")
"""A training without what a sweep has no part in."""


def grid(*words: str) -> Grid:
    parser = Parser("pippa sweep", collects=True)
    add_training_flags(parser, words, (), several=True)
    return asked_grid(parser.parse_args(words), "pippa sweep")


def test_a_grid_is_every_combination_in_the_order_of_the_flags() -> None:
    found = grid("smoke", "--learning-rate", "1e-4", "5e-4", "--max-steps", "20", "--batch-size", "1", "8")
    assert [(p.config.learning_rate, p.config.batch_size) for p in found.points] == [
        (1e-4, 1),
        (1e-4, 8),
        (5e-4, 1),
        (5e-4, 8),
    ]
    assert {point.config.max_steps for point in found.points} == {20}
    first = found.points[0]
    assert first.label == "--learning-rate 1e-4 --batch-size 1"
    assert first.name == "smoke-sweep-learning-rate-1e-4-batch-size-1"
    assert first.argv == ["--learning-rate", "1e-4", "--max-steps", "20", "--batch-size", "1"]


def test_switches_and_lists_have_points_too() -> None:
    found = grid("smoke", "--tune-llm", "--no-tune-llm", "--dataset-path", "a", "b", "--dataset-path", "c")
    assert [(p.config.tune_llm, p.config.dataset_path) for p in found.points] == [
        (True, ["a", "b"]),
        (True, ["c"]),
        (False, ["a", "b"]),
        (False, ["c"]),
    ]


@pytest.mark.parametrize("words", [(), ("--batch-size", "4"), ("--name", "kitchen")])
def test_one_point_is_a_grid(words: tuple[str, ...]) -> None:
    found = grid("smoke", *words)
    assert [point.name for point in found.points] == [found.name]


def test_a_name_of_any_length_can_begin_a_run_id() -> None:
    for point in grid("smoke", "--name", "a" * 60, "--weight-decay", "0", "1e-5").points:
        assert len(point.name) <= 60


def test_all_that_is_wrong_is_said_at_once_and_before_anything_starts(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("PIPPA_HOME", str(tmp_path / "home"))
    flags = ("--learning-rate", "x", "1e-3", "0.001", "7", "--batch-sizes", "4", "8", "--output-dir", "/tmp/out")
    assert cli.main(["sweep", "smoke", *flags]) == 2
    told = capsys.readouterr().err
    for part in ("--learning-rate: 'x'", "7 must be at most 1", "Did you mean --batch-size?", "same training"):
        assert told.count(part) == 1, told
    assert cli.main(["sweep", "smoke", "--learning-rate", "1e-3", "2e-3", "--output-dir", "/tmp/out"]) == 2
    assert "all trainings of a sweep would write there" in capsys.readouterr().err
    assert cli.main(["sweep", "smoke", "--holdout", "0.1", "0.2", "--dataset-path", "./nowhere"]) == 2
    assert capsys.readouterr().err.count("nowhere") <= 2
    assert not (tmp_path / "home").exists() or not list((tmp_path / "home").rglob("*.json"))


def test_a_dry_run_shows_the_grid(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("PIPPA_HOME", str(tmp_path / "home"))
    assert cli.main([*SMOKE, "--learning-rate", "1e-3", "3e-3", "--batch-size", "4", "8"]) == 0
    told = capsys.readouterr().out
    assert "4 trainings" in told and "--learning-rate 3e-3 --batch-size 8" in told
    assert not (tmp_path / "home").exists()


def test_a_preset_must_be_named() -> None:
    with pytest.raises(UsageError, match="Name a preset"):
        grid("--batch-size", "1", "2")


def test_a_queue_goes_on_after_a_failure(monkeypatch, tmp_path) -> None:
    points = grid("smoke", "--batch-size", "1", "2", "3").points
    trainings = [sweep.SweepTraining(n, point, log=tmp_path / f"{n}.log") for n, point in enumerate(points, 1)]
    words = [["presets", "list"], ["presets", "show", "nothing"], ["presets", "list", "--json"]]
    began: list[int] = []
    ended: list[int] = []
    queue = sweep.Queue(2, {}, lambda each: began.append(each.number), lambda each: ended.append(each.number))
    assert queue.run(list(zip(trainings, words, strict=True))) is None
    assert began == [1, 2, 3] and sorted(ended) == [1, 2, 3]
    assert [each.exit_code for each in trainings] == [0, 2, 0] and trainings[1].failed
    assert json.loads((tmp_path / "3.log").read_text())


@pytest.fixture
def pippa(tmp_path: Path, made_prefect: Path) -> Iterator[BarePippa]:
    with bare_pippa(tmp_path) as found:
        found.has_run(made_prefect)
        found.environ["PIPPA_HOME"] = str(tmp_path / "home")
        yield found


@pytest.mark.slow
def test_a_sweep_survives_a_failure_and_an_interruption_and_trains_nothing_twice(pippa: BarePippa) -> None:
    sources = ("--dataset-path", "./data", "--base-model-path", "./model", "--max-steps", "20", "--save-steps", "10")
    words = ("sweep", "smoke", *sources, *LESS, "--learning-rate", "1e-3", "3e-3")
    calls = pippa.folder / "calls"
    engine = {**json.loads(pippa.environ["FAKE_ENGINE"]), "calls": str(calls)}
    broken = {**engine, "fail": "crash", "at": 15, "only": {"learning_rate": 1e-3}}
    pippa.environ["FAKE_ENGINE"] = json.dumps(broken)

    process = pippa.start(*words)
    pippa.wait_for_pause(process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(PATIENCE) == 130, pippa.output.read_text()
    assert "pippa sweep smoke" in pippa.output.read_text()
    assert pippa.left() == []
    [first] = runs.list_runs(pippa.store)

    pippa.go_on()
    process = pippa.start(*words)
    assert process.wait(PATIENCE) == 7, pippa.output.read_text()
    told = pippa.output.read_text()
    assert "1 of 2 failed" in told and "results" in told and "pippa runs compare" in told
    found = {run.spec.config.learning_rate: run for run in runs.list_runs(pippa.store)}
    assert found[1e-3].spec.run_id == first.spec.run_id
    assert {point: run.state.status for point, run in found.items() if run.state} == {1e-3: "failed", 3e-3: "done"}
    assert {run.spec.wandb.group for run in found.values()} == {"smoke-sweep"}

    pippa.environ["FAKE_ENGINE"] = json.dumps(engine)
    process = pippa.start(*words)
    assert process.wait(PATIENCE) == 0, pippa.output.read_text()
    assert "1 done already" in pippa.output.read_text()
    left = runs.list_runs(pippa.store)
    assert {run.spec.run_id for run in left} == {run.spec.run_id for run in found.values()}
    assert [run.state and run.state.status for run in left] == ["done", "done"]
    assert len(calls.read_text().splitlines()) == 1 + 2 + 1


@pytest.fixture
def worker(pippa: BarePippa, prefect_environ, s3_settings) -> Iterator[BarePippa]:
    """A worker that trains in processes, and the store and the Prefect server that it shares with those who submit."""
    store = S3Store(s3_settings)
    snapshots.push(store, pippa.folder / "data", "dataset", "team/data")
    snapshots.push(store, pippa.folder / "model", "model", "team-model")
    pippa.environ |= {**prefect_environ, **s3_settings.to_environ(), "PREFECT_WORKER_QUERY_SECONDS": "1"}
    pippa.environ |= {"PREFECT_HOME": str(pippa.home / "prefect"), "PIPPA_LAUNCHER": "process"}
    process = pippa.start("worker", "--name", "the-worker")
    pippa.wait_for("started!", process)
    yield pippa
    process.terminate()
    process.wait(PATIENCE)


@pytest.mark.slow
def test_a_remote_sweep_goes_through_the_pool_of_workers(worker: BarePippa, s3_settings, tmp_path) -> None:
    laptop = Pippa.__new__(Pippa)  # it has no data: those are in the store
    laptop.folder, laptop.output = tmp_path / "laptop", tmp_path / "laptop" / "output"
    laptop.folder.mkdir()
    known = ("PATH", "PYTHONPATH", "PREFECT_API_URL", "PREFECT_API_AUTH_STRING", *s3_settings.to_environ())
    laptop.environ = {name: worker.environ[name] for name in known} | {"PIPPA_HOME": str(laptop.folder / "home")}
    sources = ("--dataset-path", "team/data", "--base-model-path", "team-model", "--max-steps", "8")
    values = ("--save-steps", "4", "--batch-size", "4", "--learning-rate", "1e-3", "3e-3")
    words = ("sweep", "smoke", "--name", "far", *sources, *LESS, *values, "--launcher", "remote")
    worker.go_on()

    process = laptop.start(*words)
    assert process.wait(PATIENCE) == 0, laptop.output.read_text() + worker.output.read_text()
    told = laptop.output.read_text()
    assert "2 at a time" in told and "results" in told and "Warning" not in told
    found = runs.list_runs(S3Store(s3_settings))
    points = {(run.spec.config.learning_rate, run.spec.config.batch_size) for run in found}
    assert points == {(1e-3, 4), (3e-3, 4)}
    assert {(run.spec.wandb.group, run.state and run.state.status, run.state and run.state.step) for run in found} == {
        ("far", "done", 8)
    }

    process = laptop.start(*words)
    assert process.wait(PATIENCE) == 0 and "2 done already" in laptop.output.read_text()
    assert len(runs.list_runs(S3Store(s3_settings))) == 2
