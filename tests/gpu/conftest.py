"""What only a GPU proves. ``bench.gpu_drill`` runs these, on a CPU as well, so that they work when there is a GPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.training import Training
from trainer.data.synthetic import make_synthetic
from trainer.gr00t.n15.tiny import make_tiny_base_model

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


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base model with upstream's dropout: without it, a wrong random state would go unnoticed."""
    path = make_tiny_base_model(tmp_path_factory.mktemp("models") / "tiny")
    config = json.loads((path / "config.json").read_text())
    for part in ("diffusion_model_cfg", "vl_self_attention_cfg"):
        config["action_head_cfg"][part]["dropout"] = 0.2
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One synthetic episode."""
    return make_synthetic(tmp_path_factory.mktemp("datasets") / "one", episodes=1)


@pytest.fixture
def training(
    device: torch.device,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    dataset: Path,
    base_model: Path,
) -> Callable[..., Training]:
    """Makes a training in a folder of this test: ``training("name", max_steps=4, …)``, the rest by default."""
    monkeypatch.setenv("PIPPA_HOME", str(tmp_path_factory.getbasetemp() / "pippa-home"))

    def make(name: str, **flags: object) -> Training:
        defaults = {
            "dataset_path": [dataset],
            "base_model_path": base_model,
            "output_dir": tmp_path / name,
            "batch_size": 2,
            "max_steps": 4,
            "save_steps": 2,
            "dataloader_num_workers": 0,
            "report_to": "tensorboard",
        }
        return Training({**defaults, **flags})

    return make
