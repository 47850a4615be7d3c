"""The machine's clock is set in mid-run, by hours: nothing ends early, nothing waits, nothing is lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.support.pippa import BarePippa
from tests.support.waiting import PATIENCE, until


@pytest.fixture
def clock(pippa: BarePippa, tmp_path: Path) -> Path:
    """A file with the seconds that the clock of every process of ``pippa`` is set forward by."""
    compiler, library, file = shutil.which("cc"), tmp_path / "shifted.so", tmp_path / "clock"
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler")
    source = REPOSITORY / "tests/support/shifted_clock.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    file.write_text("0")
    pippa.environ |= {"LD_PRELOAD": str(library), "SHIFTED_CLOCK": str(file)}
    return file


@pytest.mark.slow
@pytest.mark.parametrize("jump", ["3600", "-3600"])
def test_a_run_outlives_a_clock_that_is_set(pippa: BarePippa, clock: Path, jump: str) -> None:
    asked = [sys.executable, "-c", "import time; print(time.time())"]
    started = float(subprocess.run(asked, env=pippa.environ, capture_output=True, check=True).stdout)
    process = pippa.train("--save-steps", "4", "--max-steps", "12")
    pippa.wait_for_pause(process)
    until(lambda: pippa.steps(pippa.run_id) == [4])
    clock.write_text(jump)
    now = float(subprocess.run(asked, env=pippa.environ, capture_output=True, check=True).stdout)
    assert abs(now - started - int(jump)) < 1800
    command = [*pippa.command, "runs", "list", "--json"]

    def statuses() -> list[str]:
        listed = subprocess.run(command, env=pippa.environ, cwd=pippa.folder, capture_output=True, check=True)
        return [run["status"] for run in json.loads(listed.stdout)]

    until(lambda: statuses() == ["running"], statuses)
    pippa.go_on()
    assert process.wait(PATIENCE) == 0, pippa.output.read_text()
    run_id, said = pippa.run_id, pippa.output.read_text()
    assert pippa.steps(run_id) == [4, 8, 12] and "Traceback" not in said and pippa.left() == []
    assert pippa.states()[run_id] == "COMPLETED"
    assert pippa.start("runs", "show", run_id).wait(PATIENCE) == 0
    assert "wall time" in pippa.output.read_text()
    assert pippa.start("report", run_id).wait(PATIENCE) == 0, pippa.output.read_text()
