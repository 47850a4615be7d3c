"""Which frames a training and an evaluation see, measured: every frame of these datasets says its number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.support.so101_cases import CAMERAS, CONFIG
from tests.trainer.data.videos import number_in
from trainer.config.data_options import DataOptions
from trainer.data.configs import get_data_config
from trainer.data.dataset import TrainingDataset
from trainer.data.reader import DatasetReader

Number = Callable[[np.ndarray], int]
"""What a frame says its number is."""


def frames_trained_on(path: Path, number: Number = number_in, **options: object) -> list[list[list[int]]]:
    """By episode and row, the numbers of both cameras' frames in the training's batches."""
    chosen = DataOptions.model_validate(options)
    dataset = TrainingDataset([path], CONFIG, "new_embodiment", alignment=chosen.video_alignment)
    frames = dataset.__getitems__(range(len(dataset))).frames.numpy()
    numbers = iter([[number(view) for view in sample] for sample in frames])
    return [[next(numbers) for _ in range(length)] for length in dataset.readers[0].lengths.values()]


def frames_evaluated_on(path: Path, number: Number = number_in, **options: object) -> list[list[list[int]]]:
    """The same in the observations of an evaluation."""
    chosen = DataOptions.model_validate(options)
    reader = DatasetReader(path, get_data_config(CONFIG), alignment=chosen.video_alignment)

    def numbers(episode: int, row: int) -> list[int]:
        step = reader.get_step_data(episode, row)
        return [number(step[f"video.{camera}"][0]) for camera in CAMERAS]

    return [[numbers(episode, row) for row in range(length)] for episode, length in reader.lengths.items()]


def require_frames(
    path: Path, step: int = 1, number: Number = number_in, repeats: int = 1 << 12, **options: object
) -> None:
    """Row k of every episode sees frame ``step`` * k of both cameras, in training and evaluation.

    Numbers begin again after ``repeats`` frames.
    """
    trained = frames_trained_on(path, number, **options)
    assert trained == [[[step * row % repeats] * 2 for row in range(len(episode))] for episode in trained]
    assert frames_evaluated_on(path, number, **options) == trained
