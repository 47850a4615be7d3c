"""``python -m bench.gpu_drill``: proves and measures the engine on a GPU, in under five minutes of it.

Parts in the order of their value, each in its own process with its own time limit, each printing its tables as it
ends: *right* (the tests marked ``gpu``), *fast* (training steps and action chunks at full size), *where* (a profile),
*whole* (``trainer run`` with checkpoints, evaluation and a resume). The last table holds the figures against the goals.
``--generation N1.7`` measures that model; the tests are those of both.
``--size small`` runs all of it on a CPU. What the machine lacks is brought along: see ``bench.gpu_wheels``.

Exits with 1 when something is wrong that should be right; a part that is too slow is ended, and said so.
"""

from __future__ import annotations

import argparse
import datetime
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.drill.carried import CARRIED, REPOSITORY, environment
from bench.drill.goals import COLUMNS, verdicts
from bench.drill.report import read_measured
from bench.gpu_wheels import versions_locked
from bench.table import table

LIMITS = {"right": 70, "fast": 120, "where": 40, "whole": 120}
"""Seconds at most, by part."""
ALL = 265
"""Seconds at most for all of them together: what one does not use, a later one may."""
LARGER = {"N1.5": 1.0, "N1.7": 1.5}
"""How many times as long it may take: N1.7 has twice the bytes to write, as it trains in float32."""
SMALL = 10
"""How many times as long a part may take on a CPU, which may have other work."""


def main() -> int:
    """Run the parts; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(LIMITS), nargs="+", default=list(LIMITS), metavar="PART")
    parser.add_argument("--size", choices=["full", "small"], default="full", help="small runs on a CPU too")
    parser.add_argument("--generation", choices=list(LARGER), default="N1.5", help="of the model [N1.5]")
    parser.add_argument("--out", type=Path, default=CARRIED / "results", help="folder of the results, seven files")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    times = (SMALL if given.size == "small" else 1) * LARGER[given.generation]
    deadline = time.monotonic() + ALL * times
    if given.size == "full" and not has_gpu():
        parser.exit(2, "torch finds no GPU here; --size small runs on a CPU.\n")
    (given.out / "log.txt").write_text("")
    wrong = []
    for part in LIMITS:
        if part in given.only:
            limit = min(LIMITS[part] * times, deadline - time.monotonic())
            wrong += run(part, given.size, given.out, limit, given.generation)
            print((given.out / f"{part}.md").read_text(), flush=True)
    measured = read_measured(given.out)
    summary = f"## Goals\n\n{table(COLUMNS, verdicts(measured))}\n"
    print(summary)
    heading = f"# The GPU drill\n\n{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC. {described(measured)}\n"
    parts = [(given.out / f"{part}.md") for part in LIMITS]
    text = "\n".join([heading, summary, *(file.read_text() for file in parts if file.is_file())])
    (given.out / "gpu.md").write_text(text)
    for line in wrong:
        print(f"WRONG: {line}")
    print(described(measured))
    return 1 if wrong else 0


def run(part: str, size: str, out: Path, limit: float, generation: str = "N1.5") -> list[str]:
    """Run one part for at most ``limit`` seconds. Returns what is wrong; its tables are in ``<out>/<part>.md``."""
    file = out / f"{part}.md"
    file.write_text(f"## {part}\n")
    if limit <= 0:
        file.write_text(f"## {part}\n\nNot run: the time for all parts was over.\n")
        return [f"{part} was not run"]
    with (out / "log.txt").open("a") as log:
        log.write(f"\n--- {part}\n")
        log.flush()
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.drill.child", part, size, str(out), generation],
            cwd=REPOSITORY,
            env=environment(),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            with file.open("a") as tables:
                tables.write(f"\nEnded after {limit:.0f} s, its limit; the tables hold what it had found.\n")
            return [f"{part} did not end"] if part == "right" else []
        finally:
            end(process)
    return [f"{part}, see above and {out / 'log.txt'}"] if code else []


def end(process: subprocess.Popen[bytes]) -> None:
    """End a part and all it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(10)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def has_gpu() -> bool:
    """Whether torch finds one. It is asked in another process: this one stays light."""
    code = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", code], env=environment()).returncode == 0


def described(measured: dict[str, Any]) -> str:
    """The device, and the versions with those that the lock asks for."""
    about, locked = measured.get("about", {}), versions_locked()
    versions = [f"Python {about.get('python')}"]
    for name in ("torch", "transformers"):
        version = str(about.get(name))
        same = version.partition("+")[0] == locked[name]
        versions.append(f"{name} {version}" + ("" if same else f" (locked: {locked[name]})"))
    model = f"GR00T {about.get('generation')}, size {about.get('size')}"
    return f"{model}, on {about.get('device')}; {', '.join(versions)}."


if __name__ == "__main__":
    sys.exit(main())
