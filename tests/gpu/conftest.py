"""What only a GPU proves. ``bench.gpu_drill`` runs these, on a CPU as well, so that they work when there is a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.training import Training, small_training, tiny_with_dropout
from trainer.data.synthetic import make_synthetic

Within = Callable[[float, float], None]


@pytest.fixture
def within(record_property: Callable[[str, object], None]) -> Within:
    """Asserts that a difference is at most what is allowed, and records both for the drill's table."""

    def check(difference: float, allowed: float) -> None:
        record_property("difference", difference)
        record_property("allowed", allowed)
        assert difference <= allowed

    return check


@pytest.fixture
def float32() -> Iterator[None]:
    """Matrix products and convolutions in float32: a training that ran in this process has allowed tf32."""
    cudnn: Any = torch.backends.cudnn
    backends: list[Any] = [torch.backends, torch.backends.cuda.matmul, cudnn, cudnn.conv]
    before = [each.fp32_precision for each in backends]
    for each in backends:
        each.fp32_precision = "ieee"
    yield
    for each, value in zip(backends, before, strict=True):
        each.fp32_precision = value


@pytest.fixture
def training(
    device: torch.device,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Training]:
    """Makes a training in a folder of this test: ``training("name", max_steps=4, …)``, the rest by default."""
    shared = tmp_path_factory.getbasetemp() / "trained-on-a-gpu"
    monkeypatch.setenv("PIPPA_HOME", str(shared / "home"))
    dataset, base_model = shared / "dataset", shared / "base-model"
    if not base_model.is_dir():
        shared.mkdir()
        make_synthetic(dataset, episodes=1)
        tiny_with_dropout(base_model)
    return lambda name, **flags: small_training(tmp_path / name, dataset, base_model, **flags)
