"""A bare machine's Prefect: it records every training, and none waits for it, no matter what is killed."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import psutil
import pytest

from tests.support.pippa import BarePippa, bare_pippa
from tests.support.processes import alive, kill_at_once
from tests.support.proxy import proxy
from tests.support.waiting import PATIENCE, until


@pytest.fixture
def new_pippa(tmp_path) -> Iterator[BarePippa]:
    with bare_pippa(tmp_path) as pippa:
        yield pippa


@pytest.fixture
def pippa(new_pippa, made_prefect) -> BarePippa:
    new_pippa.has_run(made_prefect)
    return new_pippa


def train(pippa: BarePippa) -> subprocess.Popen[bytes]:
    """A training without what Prefect has no part in."""
    return pippa.train("--evaluate", "none", "--report-to", "tensorboard")


def recorded_step(pippa: BarePippa, process: subprocess.Popen[bytes]) -> psutil.Process:
    """Wait until Prefect has the flow run of a training that stands at step 6; the process that records it."""
    until((pippa.folder / "go on.reached").exists, pippa.output.read_text, alive=lambda: process.poll() is None)
    until(lambda: _states(pippa).get(pippa.run_id) == "RUNNING", pippa.output.read_text)
    (recording,) = pippa.recording()
    return recording


def _states(pippa: BarePippa) -> dict[str, str]:
    with suppress(sqlite3.OperationalError):  # there is none yet, or its tables are being made
        return pippa.states()
    return {}


def go_on(pippa: BarePippa) -> None:
    (pippa.folder / "go on").touch()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_prefect_that_is_killed_or_hangs_costs_the_record_only(pippa, number):
    process = train(pippa)
    recorded_step(pippa, process).send_signal(number)
    go_on(pippa)
    assert process.wait(PATIENCE) == 0, pippa.output.read_text()
    text = pippa.output.read_text()
    assert f"{pippa.run_id}/60" in text and text.count("Prefect has no whole record") == 1
    assert pippa.left() == [] and pippa.states() == {pippa.run_id: "RUNNING"}


@pytest.mark.slow
def test_a_killed_pippa_leaves_no_process_and_its_flow_run_is_crashed(pippa):
    process = train(pippa)
    recording = recorded_step(pippa, process)
    process.kill()
    process.wait()
    killed = pippa.run_id
    until(lambda: not alive(recording) and pippa.left() == [], pippa.output.read_text)
    assert pippa.states() == {killed: "CRASHED"}
    # The trainer had saved what it could.
    assert pippa.start("checkpoints", "verify", killed).wait(PATIENCE) == 0, pippa.output.read_text()


@pytest.mark.slow
def test_a_training_is_a_flow_run_with_its_report_and_crashes_that_of_one_whose_whole_tree_was_killed(pippa):
    process = train(pippa)
    recorded_step(pippa, process)
    killed = pippa.run_id
    kill_at_once(pippa.left())
    process.wait()
    assert pippa.states() == {killed: "RUNNING"}
    (pippa.folder / "go on.reached").unlink()
    process = pippa.train()
    # One process records it.
    recorded_step(pippa, process)
    go_on(pippa)
    assert process.wait(PATIENCE) == 0, pippa.output.read_text()
    assert pippa.states() == {killed: "CRASHED", pippa.run_id: "COMPLETED"} and pippa.left() == []
    kinds = dict(pippa.query(f"select key, type from artifact where key like '{pippa.run_id}-%'"))
    kinds = {key.removeprefix(f"{pippa.run_id}-"): kind for key, kind in kinds.items()}
    assert kinds == {"progress": "progress", "checkpoints": "table", "report": "markdown"}
    assert "Prefect" not in pippa.output.read_text()


@pytest.mark.slow
def test_a_team_s_server_that_goes_away_costs_the_record_only(pippa, prefect_environ):
    url = urlsplit(prefect_environ["PREFECT_API_URL"])
    with proxy(str(url.hostname), int(url.port or 0)) as way:
        pippa.environ |= {**prefect_environ, "PREFECT_API_URL": f"http://127.0.0.1:{way.port}/api"}
        pippa.environ["PIPPA_TRAININGS_PER_GPU"] = "99"
        process = train(pippa)
        until((pippa.folder / "go on.reached").exists, pippa.output.read_text, alive=lambda: process.poll() is None)
        way.cut()
        go_on(pippa)
        assert process.wait(PATIENCE) == 0, pippa.output.read_text()
    text = pippa.output.read_text()
    assert f"{pippa.run_id}/60" in text and text.count("Prefect has no whole record") == 1 and pippa.left() == []
