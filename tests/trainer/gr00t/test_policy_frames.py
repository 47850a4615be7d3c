"""A policy that is evaluated sees the frame each row means: the training's own look-up, up to the model's input."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.frames_seen import frames_trained_on
from tests.support.so101 import FPS, FRAMES
from tests.support.so101_cases import (
    CAMERAS,
    CONFIG,
    ROWS,
    Change,
    columns,
    film,
    films,
    images_in_tables,
    make,
    seconds,
    slower_table,
)
from tests.trainer.data.videos import BITS
from trainer.config.data_options import VideoAlignment
from trainer.data.configs import get_data_config
from trainer.data.metadata import build_metadata, write_metadata
from trainer.data.reader import DatasetReader
from trainer.evaluation.open_loop import evaluate_episode
from trainer.evaluation.predictor import Predictor
from trainer.gr00t.policy import Policy

CASES: dict[str, tuple[Change, VideoAlignment, int]] = {
    "as recorded": (lambda _: None, "timestamp", 1),
    "stamps of one period later": (seconds((ROWS + 1) / FPS), "timestamp", 1),
    "frames beyond the rows": (films(film, frames=FRAMES + 3), "timestamp", 1),
    "a camera twice as fast": (slower_table(2), "timestamp", 2),
    "images in the tables": (images_in_tables(), "timestamp", 1),
    "a wrong clock": (columns(timestamp=1.7e9 + ROWS / FPS), "index", 1),
}


def number_in_input(image: np.ndarray) -> int:
    """The number that a picture shows after the centre crop of 0.95 and the resizing to 224 pixels."""
    number = 0
    for bit in range(BITS):
        row, column = divmod(bit, 4)
        y, x = ((row + 0.5) * 16 - 1.5) / 45 * 224, ((column + 0.5) * 16 - 2) / 60 * 224
        patch = image[int(y) - 8 : int(y) + 8, int(x) - 8 : int(x) + 8]
        number |= int(patch.mean() > 128) << bit
    return number


@pytest.mark.parametrize("name", CASES)
def test_the_model_gets_the_frame_of_the_row(tiny: Path, tmp_path: Path, name: str) -> None:
    change, alignment, step = CASES[name]
    folder = make(tmp_path / "dataset", change)
    config = get_data_config(CONFIG)
    reader = DatasetReader(folder, config, alignment=alignment)
    checkpoint = Path(shutil.copytree(tiny, tmp_path / "checkpoint-1"))
    write_metadata(checkpoint / "experiment_cfg", build_metadata(reader.meta, "new_embodiment", config))
    policy = Policy(checkpoint, CONFIG, "new_embodiment", denoising_steps=1, device="cpu")
    seen: list[list[int]] = []
    collate = policy._collate

    def collated(samples: list[Any]) -> Any:
        seen.extend([number_in_input(view) for view in sample["images"]] for sample in samples)
        return collate(samples)

    policy._collate = collated  # type: ignore[assignment]
    evaluate_episode(Predictor(policy), reader, 1, keys=config.keys("action"), steps=FRAMES, action_horizon=1)
    assert seen == [[step * row] * len(CAMERAS) for row in range(FRAMES)]
    assert seen == frames_trained_on(folder, video_alignment=alignment)[1]
