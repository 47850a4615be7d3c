"""One part of the drill, in a process that may be lost: ``python -m bench.drill.child PART SIZE FOLDER GENERATION``."""

from __future__ import annotations

import importlib
import importlib.metadata
import signal
import sys
import time
import traceback
from pathlib import Path

import torch

from bench.drill.report import Report, in_short


def main(part: str, size: str, folder: Path, generation: str) -> int:
    """Run it. Returns 1 when something is wrong that should be right, or the part itself failed."""
    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what it started and wrote is cleared away
    report = Report(part, folder)
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    report.about(
        device=name,
        size=size,
        generation=generation,
        counts=size == "full" and torch.cuda.is_available(),
        python=".".join(map(str, sys.version_info[:3])),
        **{package: importlib.metadata.version(package) for package in ("torch", "transformers")},
    )
    try:
        importlib.import_module(f"bench.drill.{part}").run(report, size, name, generation)
    except Exception as error:
        traceback.print_exc()
        report.wrong.append(in_short(error))
    for wrong in report.wrong:
        report.note(f"WRONG: {wrong}")
    report.note(f"{time.monotonic() - began:.0f} s.")
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4]))
