"""Signals in every phase: what was promised is registered or named, the exit code is documented, nothing runs on."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress

import psutil
import pytest

from tests.support.pippa import BarePippa
from tests.support.proxy import proxy
from tests.support.waiting import PATIENCE, until
from trainer.config.settings import S3Settings
from trainer.runner.checkpoint_folder import checkpoints
from trainer.store.registry import steps_of
from trainer.store.s3 import S3Store

ENDS = {signal.SIGHUP: 129, signal.SIGINT: 130, signal.SIGTERM: 143}


def nothing_is_left(pippa: BarePippa) -> None:
    assert pippa.left() == [], [process.cmdline() for process in pippa.left()]


def in_a_terminal(pippa: BarePippa, *argv: str) -> tuple[subprocess.Popen[bytes], int]:
    """``pippa`` with its own terminal, and that terminal's other end."""
    ours, theirs = pty.openpty()
    starts = f"import fcntl, os, termios; os.setsid(); fcntl.ioctl({theirs}, termios.TIOCSCTTY, 0)"
    with pippa.output.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", f"{starts}; import flows.cli, sys; sys.exit(flows.cli.main(sys.argv[1:]))", *argv],
            cwd=pippa.folder,
            env={**pippa.environ, "TERM": "xterm"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            pass_fds=[theirs],
        )
        output.write(b"in a terminal")
    os.close(theirs)
    return process, ours


@pytest.mark.slow
def test_a_closed_terminal_saves_and_registers(pippa):
    sources = ("--dataset-path", "./data", "--base-model-path", "./model", "--max-steps", "60", "--save-steps", "20")
    process, terminal = in_a_terminal(pippa, "train", "smoke", *sources)
    while not (pippa.folder / "go on.reached").exists():
        with suppress(OSError):
            os.read(terminal, 65536)  # else it waits for us to read
    os.close(terminal)
    assert process.wait(PATIENCE) == 129
    (run_id,) = [folder.name for folder in (pippa.home / "runs").iterdir()]
    assert pippa.steps(run_id)[-1] >= 6
    nothing_is_left(pippa)


@pytest.mark.slow
@pytest.mark.parametrize("number", ENDS)
def test_a_signal_while_it_trains_saves_and_registers(pippa, number):
    process = pippa.train()
    pippa.wait_for_pause(process)
    os.kill(process.pid, number)
    assert process.wait(PATIENCE) == ENDS[number], pippa.output.read_text()
    assert pippa.steps(pippa.run_id)[-1] >= 6 and f"pippa runs resume {pippa.run_id}" in pippa.output.read_text()
    nothing_is_left(pippa)


@pytest.mark.slow
def test_nohup_outlives_the_terminal(pippa):
    pippa.environ["PIPPA_TRAININGS_PER_GPU"] = "2"
    command = [sys.executable, "-m", "flows.cli", "train", "smoke", "--dataset-path", "./data"]
    command += ["--base-model-path", "./model", "--max-steps", "8"]
    with pippa.output.open("wb") as output:
        process = subprocess.Popen(
            ["nohup", *command], cwd=pippa.folder, env=pippa.environ, stdout=output, stderr=output, stdin=output
        )
    pippa.wait_for_pause(process)
    process.send_signal(signal.SIGHUP)
    for child in psutil.Process(process.pid).children(recursive=True):
        if "trainer" in " ".join(child.cmdline()):
            child.send_signal(signal.SIGHUP)
    pippa.go_on()
    assert process.wait(PATIENCE) == 0, pippa.output.read_text()
    nothing_is_left(pippa)


@pytest.mark.slow
@pytest.mark.usefixtures("unrecorded")
@pytest.mark.parametrize("number", ENDS)
def test_a_second_signal_with_the_store_down_names_what_is_on_this_disk(pippa, s3_settings: S3Settings, number):
    host, port = s3_settings.host.split(":")
    with proxy(host, int(port)) as way:
        pippa.environ |= {**s3_settings.to_environ(), "PIPPA_S3_ENDPOINT": f"http://127.0.0.1:{way.port}"}
        process = pippa.train("--save-steps", "4")
        pippa.wait_for_pause(process)
        store = S3Store(s3_settings)
        until(lambda: steps_of(store, pippa.run_id) == [4], pippa.output.read_text)
        way.cut()
        os.kill(process.pid, number)
        pippa.wait_for("can't be uploaded yet", process)
        os.kill(process.pid, number)
        assert process.wait(PATIENCE) == ENDS[number], pippa.output.read_text()
    text = pippa.output.read_text()
    (pending,) = pippa.home.glob("runs/*/*/pending-uploads")
    step = max(checkpoints(pending))
    assert step >= 6 and f"{pippa.run_id}/{step}. On this disk: {pending.parent}" in text
    assert f"runs resume {pippa.run_id}" in text
    nothing_is_left(pippa)
    if number != signal.SIGTERM:  # what is on this disk is the same after each
        return
    # The local path that was named is what a resume uploads.
    pippa.environ |= s3_settings.to_environ()
    run_id, resumed = pippa.run_id, pippa.start("runs", "resume", pippa.run_id)
    assert resumed.wait(PATIENCE) == 0, pippa.output.read_text()
    assert {4, step, 60} <= {*steps_of(store, run_id)}


def starting(pippa: BarePippa, process: subprocess.Popen[bytes]) -> None:
    pippa.wait_for("Starting", process)


NEVER_MADE = """
import sys, time
if any("make_synthetic" in word for word in sys.orig_argv):
    time.sleep(600)
"""
"""What Python runs as it starts."""


def making(pippa: BarePippa, process: subprocess.Popen[bytes]) -> None:
    """A dataset is being made, in a separate process, which takes longer than any look at it."""
    until(lambda: any("make_synthetic" in " ".join(each.cmdline()) for each in pippa.left()), pippa.output.read_text)


def evaluating(pippa: BarePippa, process: subprocess.Popen[bytes]) -> None:
    pippa.wait_for("evaluate:", process)


@pytest.mark.slow
@pytest.mark.parametrize("number", ENDS)
@pytest.mark.parametrize("phase", [starting, making, evaluating])
def test_a_signal_in_every_other_phase(
    pippa: BarePippa, phase: Callable[[BarePippa, subprocess.Popen[bytes]], None], number: int
):
    if phase is evaluating:
        pippa.is_not_recorded()
        pippa.go_on()
        pippa.environ["PIPPA_EVALUATE_COMMAND"] = f"{sys.executable} -c 'import time; time.sleep(600)'"
    if phase is making:
        (pippa.folder / "site").mkdir()
        (pippa.folder / "site" / "sitecustomize.py").write_text(NEVER_MADE)
        pippa.environ["PYTHONPATH"] = f"{pippa.folder / 'site'}:{pippa.environ['PYTHONPATH']}"
    process = pippa.start("train", "smoke") if phase is making else pippa.train("--max-steps", "8")
    phase(pippa, process)
    stopped_by(number, pippa, process)
    if phase is evaluating:
        assert pippa.steps(pippa.run_id) == [8]
    nothing_is_left(pippa)


@pytest.mark.slow
@pytest.mark.usefixtures("unrecorded")
def test_a_signal_while_it_waits_for_a_gpu(pippa: BarePippa):
    holder = pippa.train()
    pippa.wait_for_pause(holder)
    for number in ENDS:
        process = pippa.train("--max-steps", "8")
        pippa.wait_for("Waiting for a GPU", process)
        stopped_by(number, pippa, process)
    pippa.go_on()
    assert holder.wait(PATIENCE) == 0
    nothing_is_left(pippa)


def stopped_by(number: int, pippa: BarePippa, process: subprocess.Popen[bytes]) -> None:
    os.kill(process.pid, number)
    assert process.wait(PATIENCE) == ENDS[signal.Signals(number)], pippa.output.read_text()
    assert "Traceback" not in pippa.output.read_text() and "defect" not in pippa.output.read_text()
