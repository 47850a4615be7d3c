"""Python reads this when it starts with this folder on its path: what is carried comes after what is installed."""

import sys
from pathlib import Path

_DRILL = Path(__file__).resolve().parents[1]
sys.path += [str(_DRILL.parents[1] / ".pippa" / "drill" / "packages"), str(_DRILL / "without_av")]
