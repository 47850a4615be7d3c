"""How far ahead batches are loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.config.finetune_config import FinetuneConfig
from trainer.training.arguments import training_arguments


@pytest.mark.parametrize(
    ("sample_bytes", "factor"),
    [(0, 4), (2 * 640 * 480 * 3, 4), (2 * 1280 * 720 * 3, 2), (2 * 1920 * 1080 * 3, 1), (10**9, 1)],
)
def test_large_frames_are_loaded_less_far_ahead(
    sample_bytes: int, factor: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = FinetuneConfig(dataset_path=["any"], batch_size=32, dataloader_num_workers=8)
    made = training_arguments(config, tmp_path, sample_bytes)
    assert made.dataloader_prefetch_factor == factor
    assert ("is lowered" in caplog.text) == (factor < 4)
