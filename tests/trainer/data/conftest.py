"""Fixtures of the data tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.data.configs import get_data_config
from trainer.data.dataset import DatasetReader
from trainer.data.synthetic import make_synthetic


@pytest.fixture(scope="session")
def demo_reader(demo_dataset: Path) -> DatasetReader:
    """The real demo dataset, read through its data config."""
    return DatasetReader(demo_dataset, get_data_config("fourier_gr1_arms_only"))


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic dataset of three episodes. Don't change it; copy it."""
    return make_synthetic(tmp_path_factory.mktemp("data") / "synthetic", episodes=3, seed=0)
