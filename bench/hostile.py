"""``python -m bench.hostile``: what ``pippa serve`` answers to strangers, and a minute of fuzzing.

It serves a checkpoint in its own process (``--checkpoint``, by default a tiny model of each generation), sends a
table of hostile requests and then random ones: real requests of every kind of client with values, structure or bytes
changed, the options of real-time chunking among them. It fails when a request is left without an answer, when the
server fails instead of refusing, when it answers with something that is no finite action, or when it stops serving.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.hostile_client import Robot
from bench.hostile_requests import changed, hostile
from bench.serve import CONFIG, policy_of_n15, policy_of_n17
from bench.table import report, table

SERVING = re.compile(r"Serving .* at tcp://127\.0\.0\.1:(\d+) .* http://127\.0\.0\.1:(\d+) ")
FAILED: list[int] = []
SLOWEST = 60.0
"""Seconds within which everything is answered, on a machine with other work too."""


class Server:
    """``trainer serve`` in a process."""

    def __init__(self, folder: Path, flags: Sequence[str]) -> None:
        command = [sys.executable, "-m", "trainer.cli", "serve", str(folder), "--port=0", "--http-port=0", *flags]
        environ = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stderr is not None
        found = next(filter(None, map(SERVING.search, self.process.stderr)), None)
        if found is None:
            raise SystemExit("The server ended before it served.")
        self.ports = int(found[1]), int(found[2])
        os.set_blocking(self.process.stderr.fileno(), False)

    def memory_mb(self, which: str = "VmRSS") -> float:
        """Resident memory now, or its peak (``VmHWM``) since ``forget_peak``."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.partition(f"{which}:")[2].split()[0]) / 1e3

    def forget_peak(self) -> None:
        """Begin the peak again."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def close(self) -> str:
        """End it by SIGTERM; what it logged since it serves."""
        self.process.terminate()
        if self.process.wait(60) != 143:
            raise SystemExit(f"The server ended with {self.process.returncode}.")
        assert self.process.stderr is not None
        return self.process.stderr.read()


def main() -> None:
    """Serve, send, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of fuzzing, each generation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="write bench/results/<date>-hostile.md")
    given = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    sections = []
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["PIPPA_HOME"] = str(Path(temporary) / "home")
        made = {"GR00T N1.5": policy_of_n15(Path(temporary)), "GR00T N1.7": policy_of_n17(Path(temporary))}
        for name, policy in made.items():
            flags = [f"--data-config={CONFIG}"] if name == "GR00T N1.5" else []
            server = Server(policy.checkpoint.folder, flags)
            try:
                robot = Robot(policy, *server.ports, SLOWEST)
                sections += [f"## {name}", _table(server, robot), _fuzzed(server, robot, given.seconds, given.seed)]
            finally:
                log = server.close()
            if "Traceback" in log:
                print(f"The server failed:\n{log[-8000:]}", file=sys.stderr)
                FAILED.append(1)
    report("hostile", "Hostile requests", sections, save=given.save and not FAILED)
    if FAILED:
        raise SystemExit(1)


def _table(server: Server, robot: Robot) -> str:
    robot.act()
    rows, failures = [], []
    for sent in hostile(robot):
        server.forget_peak()
        before, began = server.memory_mb(), time.perf_counter()
        came = sent.send()
        seconds = time.perf_counter() - began
        failures += [f"{sent.by}, {sent.what}: {came.words}"] if came.failure else []
        rows.append(
            [
                sent.by,
                sent.what,
                came.words[:110].replace("|", "\\|"),
                seconds,
                f"{server.memory_mb('VmHWM') - before:.0f}",
            ]
        )
        robot.act()
    _require_none(failures)
    return table(["by", "sent", "came back", "s", "peak memory, MB more"], rows)


def _fuzzed(server: Server, robot: Robot, seconds: float, seed: int) -> str:
    server.forget_peak()
    before, slowest, failures = server.memory_mb(), 0.0, []
    kinds: Counter[str] = Counter()
    end = time.monotonic() + seconds
    for number, sent in enumerate(changed(robot, np.random.default_rng(seed))):
        if time.monotonic() > end:
            break
        began = time.perf_counter()
        came = sent.send()
        slowest = max(slowest, time.perf_counter() - began)
        kinds[f"{sent.by}: {came.kind}"] += 1
        if came.failure:
            failures.append(f"{number} {sent.by} {sent.what}: {came.words}")
        if number % 200 == 0:
            robot.act()
    robot.act()
    _require_none(failures)
    figures = (
        f"{sum(kinds.values())} changed requests in {seconds:g} s, seed {seed}: every one answered, the slowest after "
        f"{slowest:.2f} s. Memory {before:.0f} MB before, {server.memory_mb('VmHWM'):.0f} MB at its peak, "
        f"{server.memory_mb():.0f} MB after."
    )
    return (
        figures + "\n\n" + table(["answer", "requests"], [[kind, str(count)] for kind, count in sorted(kinds.items())])
    )


def _require_none(failures: Sequence[str]) -> None:
    if failures:
        print("\n".join([f"{len(failures)} failures:", *failures[:40]]), file=sys.stderr)
        FAILED.append(len(failures))


if __name__ == "__main__":
    main()
