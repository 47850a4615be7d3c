"""First trainings at once in one home: what is created once is created by the first to come; all go on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.pippa import BarePippa
from tests.support.waiting import PATIENCE

FLAGS = ("--max-steps", "4", "--save-steps", "2", "--evaluate", "none")


@contextmanager
def trainings(pippa: BarePippa, at_once: int) -> Generator[dict[Path, subprocess.Popen[bytes]]]:
    """They make dataset and base model too, and train with the engine of the tests; by the file of their output."""
    pippa.go_on()
    pippa.environ["PIPPA_TRAININGS_PER_GPU"] = str(at_once)
    started: dict[Path, subprocess.Popen[bytes]] = {}
    for index in range(at_once):
        output = pippa.folder / f"output-{index}"
        with output.open("wb") as file:
            started[output] = subprocess.Popen(
                [sys.executable, "-m", "flows.cli", "train", "smoke", *FLAGS],
                cwd=pippa.folder,
                env=pippa.environ,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    yield started


def ended_well(pippa: BarePippa, started: dict[Path, subprocess.Popen[bytes]]) -> None:
    for output, process in started.items():
        assert process.wait(PATIENCE) == 0, output.read_text()
    for output in started:
        assert "Traceback" not in output.read_text() and "defect" not in output.read_text()
    assert pippa.left() == []


@pytest.mark.slow
def test_eight_first_trainings_at_once_on_a_bare_machine_all_train_and_are_recorded(new_pippa):
    pippa = new_pippa
    with trainings(pippa, 8) as started:
        ended_well(pippa, started)
    assert sorted(pippa.states().values()) == ["COMPLETED"] * 8
    assert len(list((pippa.home / "store" / "checkpoints").iterdir())) == 8
    kinds = {kind: list((pippa.home / "store" / "snapshots" / kind).glob("*/*")) for kind in ("dataset", "model")}
    assert [len(found) for found in kinds.values()] == [1, 1]


@pytest.mark.slow
def test_three_first_trainings_at_once_with_a_team_s_server_all_train(new_pippa, prefect_environ):
    """Three: there is no server and no database that each of them might be the first to make."""
    pippa = new_pippa
    pippa.environ |= prefect_environ
    with trainings(pippa, 3) as started:
        ended_well(pippa, started)
