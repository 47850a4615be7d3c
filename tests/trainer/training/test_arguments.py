"""What a training will need of the disk and of the memory, before it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trainer.config.finetune_config import FinetuneConfig
from trainer.gr00t.n15.config import GR00TN15Config
from trainer.training import disk_estimate
from trainer.training.arguments import training_arguments
from trainer.training.disk_estimate import checkpoint_bytes, room_for_checkpoints


def config(**flags: Any) -> FinetuneConfig:
    """The defaults, but for ``flags``."""
    return FinetuneConfig(dataset_path=["any"], **flags)


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """A folder with the official model's config.json, which is all that is read."""
    GR00TN15Config().to_json_file(tmp_path / "config.json", use_diff=False)
    return tmp_path


def test_the_official_models_checkpoints(official: Path) -> None:
    frozen, added = checkpoint_bytes(official, config())
    # The tuned 1.07 B parameters in float32, their two moments, and the others in bfloat16.
    assert (frozen / 1e9, added / 1e9) == pytest.approx((2.69, 12.83), abs=0.01)
    assert checkpoint_bytes(official, config(tune_diffusion_model=False))[1] < added / 2


def test_what_lies_there_already_is_not_counted_again(
    official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_estimate, "checkpoint_bytes", lambda *_: (100, 1000))
    out = tmp_path / "out"
    (out / "checkpoint-1").mkdir(parents=True)
    (out / "checkpoint-1/frozen").write_bytes(bytes(100))
    (out / "checkpoint-2").mkdir()
    (out / "checkpoint-2/frozen").hardlink_to(out / "checkpoint-1/frozen")
    for max_steps, needed in ((3000, 3000), (10_000, 6000)):  # five are kept while the next is written
        assert room_for_checkpoints(official, config(max_steps=max_steps, save_steps=1000), out, tmp_path) == needed
    assert room_for_checkpoints(official, config(), out, Path("/proc")) == 0


@pytest.mark.parametrize(
    ("sample_bytes", "factor"),
    [(0, 4), (2 * 640 * 480 * 3, 4), (2 * 1280 * 720 * 3, 2), (2 * 1920 * 1080 * 3, 1), (10**9, 1)],
)
def test_large_frames_are_loaded_less_far_ahead(
    sample_bytes: int, factor: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = training_arguments(config(batch_size=32, dataloader_num_workers=8), tmp_path, sample_bytes)
    assert made.dataloader_prefetch_factor == factor
    assert ("is lowered" in caplog.text) == (factor < 4)
