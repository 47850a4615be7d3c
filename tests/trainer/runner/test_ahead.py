"""Commands that were started before anybody knew what they were to do, in real processes."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.processes import alive, child_with
from tests.support.waiting import PATIENCE, until
from trainer.runner.ahead import Ahead

COMMAND = [sys.executable, str(Path(__file__).parents[2] / "support" / "started_ahead.py")]
ENVIRON = {**os.environ, "PYTHONPATH": os.fspath(Path(__file__).parents[3]), "PIPPA_HOME": "/home/of/pippa"}


def said(process: subprocess.Popen[bytes] | None) -> dict[str, Any]:
    assert process is not None
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    return json.loads(out)


def lock(path: Path) -> int:
    """The descriptor of a lock that is held until it is closed everywhere."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return handle


def test_it_does_what_it_is_told_as_if_it_had_been_started_then():
    environ = {**ENVIRON, "PIPPA_RUN_SPEC": "spec.json", "WANDB_MODE": "offline", "PIPPA_LONG": "x" * 500_000}
    with Ahead(COMMAND, {**ENVIRON, "PIPPA_S3_ENDPOINT": "gone"}) as ahead:
        given = said(ahead.give([*COMMAND, "--run-id", "a b"], environ))
    assert given["waited"] and given["loaded"]
    assert given["arguments"] == given["argv"] == ["--run-id", "a b"]
    assert given["environ"] == {**environ, "CUDA_VISIBLE_DEVICES": "0"}
    assert given["stdin"] == ""


@pytest.mark.parametrize(
    "change", [{"CUDA_VISIBLE_DEVICES": "3"}, {"OMP_NUM_THREADS": "7"}, {"PIPPA_HOME": "/elsewhere"}]
)
def test_what_libraries_read_early_starts_python_anew_in_its_place(change):
    with Ahead(COMMAND, ENVIRON) as ahead:
        process = ahead.give([*COMMAND, "--num-gpus", "1"], {**ENVIRON, **change})
        given = said(process)
    assert process and given["pid"] == process.pid
    assert not given["waited"] and not given["loaded"]
    assert given["arguments"] == ["--num-gpus", "1"]
    assert change.items() <= given["environ"].items()


@pytest.mark.parametrize("change", [{}, {"OMP_NUM_THREADS": "7"}], ids=["waited", "anew"])
def test_it_holds_locks_and_writes_its_log_where_it_is_told(tmp_path, change):
    held = lock(tmp_path / "lock")
    with Ahead(COMMAND, ENVIRON) as ahead, (tmp_path / "log").open("wb") as log:
        process = ahead.give([*COMMAND, "stay"], {**ENVIRON, **change}, [held], log.fileno())
        assert process and process.stdout and process.stdout.readline()
    os.close(held)
    assert (tmp_path / "log").read_text() == "a word for people\n"
    with pytest.raises(BlockingIOError):
        lock(tmp_path / "lock")
    process.kill()
    process.communicate()
    os.close(lock(tmp_path / "lock"))


def test_once_is_enough():
    with Ahead(COMMAND, ENVIRON) as ahead:
        assert ahead.give(["another", "command"], ENVIRON) is None
        said(ahead.give(COMMAND, ENVIRON))
        assert ahead.give(COMMAND, ENVIRON) is None


def test_one_that_was_killed_is_not_there():
    with Ahead(COMMAND, ENVIRON) as ahead:
        child = child_with("--ahead")
        child.kill()
        psutil.wait_procs([child], timeout=PATIENCE)
        assert ahead.give(COMMAND, ENVIRON) is None


def test_nobody_needs_it():
    with Ahead(COMMAND, ENVIRON):
        child = child_with("--ahead")
    assert not child.is_running()


def test_it_ends_with_whoever_started_it():
    code = f"""
import os, time
from trainer.runner.ahead import Ahead
with Ahead({COMMAND!r}, os.environ):
    print(flush=True)
    time.sleep(60)
"""
    starter = subprocess.Popen([sys.executable, "-c", code], env=ENVIRON, stdout=subprocess.PIPE)
    assert starter.stdout and starter.stdout.readline()
    (child,) = psutil.Process(starter.pid).children()
    starter.kill()
    starter.communicate()
    until(lambda: not alive(child))
