"""A training whose frames are kept as planes, and converted where it computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.training import Training
from trainer.data.dataset import TrainingDataset
from trainer.events import PhaseEvent
from trainer.training import n15


def test_planes_train_as_rgb_does(
    training: Callable[..., Training], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, which there is none of here: its batches and its kernels, on the CPU."""
    usual = training("rgb", max_steps=3, save_steps=3)
    assert usual.run() == 0

    made: list[TrainingDataset] = []

    def as_on_a_gpu(*given: Any, on_gpu: bool, **named: Any) -> TrainingDataset:
        made.append(TrainingDataset(*given, on_gpu=not on_gpu, **named))
        return made[-1]

    monkeypatch.setenv("PIPPA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(n15, "TrainingDataset", as_on_a_gpu)
    planar = training("planes", max_steps=3, save_steps=3, dataloader_num_workers=2)
    assert planar.run() == 0
    assert [each.frames.planar for each in made] == [2]
    assert any(isinstance(each, PhaseEvent) and "2 videos are kept as 4:2:0" in each.message for each in planar.events)
    np.testing.assert_allclose(planar.losses(3), usual.losses(3), rtol=1e-3)
