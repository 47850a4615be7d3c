"""``python -m bench.start``: from the command to the first training step, on a machine that has done it before.

Three ways to the same first step of the preset ``smoke``, in turns: only what can't be avoided (``floor``: importing
torch and transformers' Trainer, and building the model), ``trainer finetune``, and ``pippa train`` with everything
around it. The first run of each, which fills caches, is not counted. The first step is the first
``progress`` event; the run gets a stop signal then.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from bench.table import report, table
from trainer.config.argv import to_argv
from trainer.config.presets import get_preset
from trainer.data.synthetic import make_synthetic
from trainer.events import PhaseEvent, parse_event

FLOOR = """
import torch, sys
from transformers import Trainer
from trainer.gr00t.n15.model import GR00TN15
GR00TN15.from_pretrained(sys.argv[1])
"""
Timeline = dict[str, float]
"""Seconds after the start, by what happened then."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true", help="write bench/results/<date>-start.md")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        environ = {**os.environ, "PIPPA_HOME": str(folder / "home"), "WANDB_MODE": "offline"}
        ways: dict[str, Callable[[], Timeline]] = {
            "floor": lambda: floor(folder, environ),
            "trainer finetune": lambda: finetune(folder, environ),
            "pippa train": lambda: pippa_train(folder, environ),
        }
        prepare(folder)
        runs: dict[str, list[Timeline]] = {name: [] for name in ways}
        for turn in range(given.rounds + 1):
            for name, way in ways.items():
                timeline = way()
                if turn:
                    runs[name].append(timeline)
    medians = {name: median(timelines) for name, timelines in runs.items()}
    least = medians["floor"]["first step"]
    rows = [[name, times["first step"], times["first step"] / least] for name, times in medians.items()]
    sections = [table(["way", "seconds to the first step", "× the floor"], rows)]
    for name, times in medians.items():
        if len(times) > 1:
            sections.append(f"## {name}\n\n{table(['', 'seconds after the start'], list(times.items()))}")
    report("start", "Start", sections, save=given.save)


def prepare(folder: Path) -> None:
    """What ``trainer finetune`` alone needs."""
    from trainer.gr00t.n15.tiny import make_tiny_base_model

    make_synthetic(folder / "dataset")
    make_tiny_base_model(folder / "tiny")


def floor(folder: Path, environ: dict[str, str]) -> Timeline:
    """Imports and model, in a fresh process."""
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", FLOOR, str(folder / "tiny")], env=environ, check=True, stderr=subprocess.DEVNULL
    )
    return {"first step": time.monotonic() - began}


def finetune(folder: Path, environ: dict[str, str]) -> Timeline:
    """The engine by itself, with the flags of ``smoke``."""
    config = get_preset("smoke").config.model_copy(
        update={
            "dataset_path": [str(folder / "dataset")],
            "base_model_path": str(folder / "tiny"),
            "output_dir": str(folder / "out"),
        }
    )
    command = [sys.executable, "-m", "trainer.finetune", *to_argv(config)]
    began = time.monotonic()
    child = subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    assert child.stdout
    try:
        return until_first_step(child.stdout, began)
    finally:
        child.send_signal(signal.SIGTERM)
        child.communicate()


def pippa_train(folder: Path, environ: dict[str, str], *flags: str) -> Timeline:
    """The whole command, with everything embedded."""
    runs = folder / "home" / "runs"
    known = set(runs.iterdir()) if runs.is_dir() else set()
    began = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "train", "smoke", *flags],
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )

    def lines() -> Iterator[str]:
        read = 0
        while child.poll() is None:
            for run in set(runs.iterdir()) - known if runs.is_dir() else ():
                with suppress(FileNotFoundError):
                    text = (run / "events.jsonl").read_text()
                    complete = text[: text.rfind("\n") + 1]
                    yield from complete[read:].splitlines()
                    read = len(complete)
            time.sleep(0.02)
        assert child.stderr
        raise SystemExit(f"`pippa train` ended early:\n{child.stderr.read().decode()[-3000:]}")

    try:
        return until_first_step(lines(), began)
    finally:
        child.send_signal(signal.SIGTERM)
        child.communicate()


def until_first_step(lines: Iterator[str], began: float) -> Timeline:
    """When each phase began, and when the first step was done."""
    timeline: Timeline = {}
    for line in lines:
        event = parse_event(line)
        if event is None:
            continue  # libraries print too
        name = f"phase {event.phase}" if isinstance(event, PhaseEvent) else event.event
        seconds = time.monotonic() - began
        if name == "progress":
            timeline["first step"] = seconds
            return timeline
        timeline.setdefault(name, seconds)
    raise SystemExit("The training ended before its first step.")


def median(timelines: list[Timeline]) -> Timeline:
    """Of each event."""
    return {name: statistics.median(each[name] for each in timelines if name in each) for name in timelines[-1]}


if __name__ == "__main__":
    main()
