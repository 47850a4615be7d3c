"""Where what a GPU machine lacks lies in a checkout: it travels with it, and git ignores it."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CARRIED = REPOSITORY / ".pippa" / "drill"
PACKAGES = CARRIED / "packages"
GOLDEN = CARRIED / "golden"
