"""Fixtures every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def golden() -> Path:
    """Tensors produced by upstream's own code; its README says how."""
    if not (SHARED / "golden").is_dir():
        pytest.skip("upstream's golden tensors are not beside this checkout (../shared/golden)")
    return SHARED / "golden"


@pytest.fixture(scope="session")
def demo_dataset() -> Path:
    """The real demo dataset ``robot_sim.PickNPlace``."""
    path = SHARED / "demo_data" / "robot_sim.PickNPlace"
    if not path.is_dir():
        pytest.skip("the demo dataset is not beside this checkout (../shared/demo_data)")
    return path
