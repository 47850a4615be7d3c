"""A whole run: ``trainer run``, from a base model of this size to its evaluation, and a resume."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

from bench.drill.report import Report, Table
from bench.drill.steps import SIZES, device
from bench.drill.subjects import SUBJECTS
from trainer.data.synthetic import make_synthetic
from trainer.events import CheckpointEvent, ErrorEvent, EvaluationEvent, PhaseEvent, ProgressEvent, parse_event

STEPS, SAVE_STEPS = 40, 20
AFTER = 5
"""Steps that a save may still hold up: an optimizer that waits for the copies, writing beside the training."""
MEMORY = Path("/dev/shm")
ROOM = 40 * 10**9
"""Bytes it must have free for base model, store and cache to lie there: they would not fit beside checkpoints."""


class Folders(NamedTuple):
    """Where things lie."""

    disk: Path
    """The output: what is written there is measured."""
    quick: Path
    """Base model, dataset, store, cache."""


def run(report: Report, size: str, _device: str, generation: str) -> None:
    """The run, then the resume."""
    subject = SUBJECTS[generation]
    with folders() as where:
        base = subject.base_model(size, where.quick / "base", device())
        torch.cuda.empty_cache()
        dataset = make_synthetic(where.quick / "dataset", episodes=2 if size == "small" else 5)
        out, times = where.disk / "out", where.disk / "times.json"
        title = f"`trainer run {subject.preset}`, 40 steps at batch 1, two checkpoints"
        phases = report.table(title, ["phase", "seconds"])
        flags = {
            "--dataset-path": dataset,
            "--base-model-path": base,
            "--output-dir": out,
            "--max-steps": STEPS,
            "--save-steps": SAVE_STEPS,
            "--dataloader-num-workers": SIZES[size].workers,
            **subject.whole_flags,
        }
        environ = {
            "PIPPA_HOME": str(where.quick / "home"),
            "PIPPA_S3_ENDPOINT": "",  # the folder, whatever store is set here
            "PIPPA_FINETUNE_COMMAND": engine(times),
        }
        argv = ["-m", "trainer.cli", "run", subject.preset, *words(flags)]
        report.attempt(lambda: follow(report, phases, argv, environ))
        if times.is_file():
            report.attempt(lambda: saves(report, out, json.loads(times.read_text())))
        stored = sum(file.stat().st_size for file in (where.quick / "home/store").rglob("*") if file.is_file())
        report.fact("store_bytes", stored)
        report.note(f"The object store, a folder, holds {stored / 1e9:.2f} GB.")
        resumed = {**flags, **subject.engine_flags, "--max-steps": 2 * STEPS}
        argv = ["-m", "trainer.finetune", *words(resumed), "--resume"]
        table = report.table("Resumed from the last checkpoint, the engine alone", ["until", "seconds"])
        report.attempt(lambda: resume(report, table, argv, environ))


@contextmanager
def folders() -> Generator[Folders]:
    """Temporary folders, gone afterwards."""
    with ExitStack() as stack:
        disk = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        quick = disk
        if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM:
            quick = stack.enter_context(tempfile.TemporaryDirectory(dir=MEMORY, ignore_cleanup_errors=True))
        yield Folders(Path(disk), Path(quick))


def engine(times: Path) -> str:
    """The command that starts the engine with a stopwatch."""
    return f"{sys.executable} -m bench.drill.engine {times}"


def words(flags: Mapping[str, object]) -> list[str]:
    """Flags and their values as arguments; None for a flag without one."""
    return [str(word) for pair in flags.items() for word in pair if word is not None]


@contextmanager
def started(argv: Sequence[str], environ: dict[str, str]) -> Generator[subprocess.Popen[str]]:
    """A Python process whose stdout is read; gone afterwards, with all it started."""
    process = subprocess.Popen(
        [sys.executable, *argv],
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def follow(report: Report, table: Table, argv: Sequence[str], environ: dict[str, str]) -> None:
    """A row for each phase of the run, and for what it says of itself."""
    began, phase = time.monotonic(), "Starting"
    with started(argv, environ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            event, now = parse_event(line), time.monotonic()
            if isinstance(event, PhaseEvent):
                table.row(phase, now - began)
                began, phase = now, event.message
            elif isinstance(event, CheckpointEvent):
                report.note(f"Step {event.step} registered, {event.bytes_uploaded / 1e9:.2f} GB sent.")
            elif isinstance(event, EvaluationEvent):
                report.fact("evaluation", event.metrics)
            elif isinstance(event, ErrorEvent):
                report.wrong.append(f"trainer run: {event.message}")
        table.row(phase, time.monotonic() - began)
        if code := process.wait():
            report.wrong.append(f"`trainer run` exited with {code}")


def saves(report: Report, out: Path, noted: dict[str, Any]) -> None:
    """What each save cost, and the memory over the run."""
    # The wait for the disk, which only a drill has, lies in the step before the save, and is not counted.
    waited = dict(noted["waited"])
    starts = enumerate(pairwise(noted["begun"]), 1)
    steps = [later - start - waited.get(number, 0.0) for number, (start, later) in starts]
    step = median(steps)
    columns = ["step", "stands still, ms", "the next steps take longer by, ms", "seconds to write", "GB written"]
    table, stopped, before = report.table("Saves", columns), [], set()
    for number, (stood, written) in enumerate(zip(noted["stood"], noted["written"], strict=False), 1):
        at = number * SAVE_STEPS
        after = steps[at : at + AFTER]
        longer = max(sum(after) - len(after) * step, 0.0)
        files = [file.stat() for file in (out / f"checkpoint-{at}").rglob("*") if file.is_file()]
        # Frozen weights are links to those of the checkpoint before.
        size = sum(file.st_size for file in files if file.st_ino not in before)
        before |= {file.st_ino for file in files}
        table.row(at, stood * 1e3, longer * 1e3 if after else "none follows", written, size / 1e9)
        stopped.append((stood + longer) * 1e3)
    settled = SAVE_STEPS + AFTER
    growth = {name: noted[name][-1] - noted[name][settled - 1] for name in ("host", "device")}
    report.note(
        f"A step takes {step * 1e3:.1f} ms. Before the first save, host memory for the copies is made once, in "
        f"{noted['pinned'] * 1e3:.0f} ms. From step {settled} to step {STEPS} the process grows by "
        f"{growth['host'] / 1e6:.1f} MB, what it has of the device's memory by {growth['device'] / 1e6:.1f} MB."
    )
    report.fact("stopped_ms", max(stopped))
    report.fact("pinning_ms", noted["pinned"] * 1e3)
    report.fact("step_ms", step * 1e3)
    report.fact("seconds_to_write", noted["written"])
    report.fact("growth_bytes", growth)


def resume(report: Report, table: Table, argv: Sequence[str], environ: dict[str, str]) -> None:
    """Seconds until the run continues."""
    began = time.monotonic()
    with started(argv, environ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            event = parse_event(line)
            if isinstance(event, PhaseEvent):
                table.row(event.message, time.monotonic() - began)
            elif isinstance(event, ProgressEvent):
                table.row(f"step {event.step} is done", time.monotonic() - began)
                report.fact("resume_seconds", time.monotonic() - began)
                return
            elif isinstance(event, ErrorEvent):
                report.wrong.append(f"resume: {event.message}")
    report.wrong.append("resume: the engine ended before its first step")
