"""Contestants: child processes that are asked, turn by turn, to process so many samples.

Each has the machine to itself while it is asked, and all of them are asked in every round, so that what else the
machine does hits all alike. A line of JSON each way: ``{"samples": N, "seed": S, "cold": false}``, and back
``{"seconds": …, "cpu_seconds": …, "anonymous_kb": …, "mapped_kb": …}``; before the first, ``{"ready": seconds}``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import NamedTuple


class Turn(NamedTuple):
    """One turn: N samples."""

    samples: int
    seconds: float
    cpu_seconds: float
    anonymous_mb: float
    """Resident memory of the process itself."""
    mapped_mb: float
    """Resident pages of files, which the kernel takes back when it needs them."""

    @property
    def rate(self) -> float:
        """Samples per second."""
        return self.samples / self.seconds

    @property
    def cpu_rate(self) -> float:
        """Samples per second of processor time."""
        return self.samples / self.cpu_seconds


class Contestant:
    """One child process. Its stderr is shown only when it fails."""

    def __init__(self, name: str, command: Sequence[str | Path], environ: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.turns: list[Turn] = []
        self._process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(environ or {})},
        )
        self.ready = self._reply()["ready"]

    def turn(self, samples: int, seed: int, *, cold: bool = False) -> Turn:
        """Ask for ``samples`` samples drawn with ``seed``, and keep the answer. ``cold`` starts with an empty cache."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"samples": samples, "seed": seed, "cold": cold}) + "\n")
        self._process.stdin.flush()
        reply = self._reply()
        memory = (reply["anonymous_kb"] / 1e3, reply["mapped_kb"] / 1e3)
        self.turns.append(Turn(samples, reply["seconds"], reply["cpu_seconds"], *memory))
        return self.turns[-1]

    def _reply(self) -> dict[str, float]:
        assert self._process.stdout is not None and self._process.stderr is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} failed:\n{self._process.stderr.read()[-3000:]}")
        return json.loads(line)

    def __enter__(self) -> Contestant:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()


def times_faster(one: Sequence[Turn], other: Sequence[Turn]) -> tuple[float, float]:
    """How many times more samples per second, and per second of processor time: the median over the rounds."""
    pairs = list(zip(one, other, strict=True))
    return median(a.rate / b.rate for a, b in pairs), median(a.cpu_rate / b.cpu_rate for a, b in pairs)


def serve(turn: Callable[[int, int, bool], None], since: float) -> None:
    """The child's side: answer until stdin closes. ``turn(samples, seed, cold)`` does the work."""
    print(json.dumps({"ready": time.perf_counter() - since}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        began, cpu = time.perf_counter(), time.process_time()
        turn(asked["samples"], asked["seed"], asked["cold"])
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
        print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, **_memory()}), flush=True)


def _memory() -> dict[str, int]:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {"anonymous_kb": int(status["RssAnon"].split()[0]), "mapped_kb": int(status["RssFile"].split()[0])}
