"""The small model that upstream's N1.7 code was run with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.support.golden_n17 import load_state, make_model
from trainer.gr00t.n17.model import Gr00tN1d7


@pytest.fixture(scope="session")
def golden_state(golden_n17: Path) -> dict[str, torch.Tensor]:
    return load_state(golden_n17)


@pytest.fixture
def golden_model(golden_n17: Path, golden_state: dict[str, torch.Tensor]) -> Callable[..., Gr00tN1d7]:
    """Makes that model with values of config.json changed; as upstream where padding is concerned, if not told
    otherwise.
    """
    return lambda **changed: make_model(golden_n17, golden_state, **{"upstream_exact": True, **changed})
