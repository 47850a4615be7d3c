"""Where what a GPU machine lacks lies in a checkout: it travels with it, and git ignores it."""

from __future__ import annotations

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CARRIED = REPOSITORY / ".pippa" / "drill"
PACKAGES = CARRIED / "packages"
GOLDEN = CARRIED / "golden"
GOLDEN_N17 = CARRIED / "golden-n17"


def environment() -> dict[str, str]:
    """The variables for a process that finds what is carried, where it is not installed (``path/sitecustomize.py``)."""
    paths = [Path(__file__).parent / "path", REPOSITORY, os.environ.get("PYTHONPATH")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(str(path) for path in paths if path), "PYTHONUNBUFFERED": "1"}
