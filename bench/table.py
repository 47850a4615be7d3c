"""Tables of the benchmarks: printed, and kept as dated markdown in ``bench/results``."""

from __future__ import annotations

import datetime
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A markdown table; floats get three significant digits."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def report(area: str, title: str, sections: Sequence[str], *, save: bool) -> Path | None:
    """Print the sections under a heading with machine and command; ``save`` also writes them to ``RESULTS``."""
    command = shlex.join(["uv", "run", "python", "-m", f"bench.{area}", *sys.argv[1:]])
    now = datetime.datetime.now(datetime.UTC)
    heading = f"# {title}\n\n{now:%Y-%m-%d %H:%M} UTC, {machine()}.\n\n`{command}`"
    text = "\n\n".join([heading, *sections]) + "\n"
    print(text)
    if not save:
        return None
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{now:%Y-%m-%d}-{area}.md"
    path.write_text(text)
    return path


def machine() -> str:
    """Processor, cores and versions, in one line."""
    import torch

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = f"{len(names)} cores of {names[0]}" if names else cpu
    return f"{cpu}, Python {platform.python_version()}, torch {torch.__version__}"


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
