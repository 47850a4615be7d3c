"""Our data path of N1.7 as a contestant of ``bench.n17``: ``python -m bench.n17_contestant …``.

A cold turn empties the frame cache, opens the dataset again and fills the cache.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

import numpy as np
import torch

from bench.contest import serve
from trainer.data.data_config import DataConfig
from trainer.data.frames import FrameStore
from trainer.data.n17 import processor_files
from trainer.data.n17.collate import Collator
from trainer.data.n17.configs import get_data_config
from trainer.data.n17.dataset import TrainingDataset
from trainer.data.n17.finish import finish_images
from trainer.gr00t.n17.processor import QwenProcessor

CONFIG, TAG, BATCH = "gr1_arms_only", "new_embodiment", 8
JITTER = {"brightness": 0.3, "contrast": 0.4, "saturation": 0.5, "hue": 0.08}
"""As upstream's examples/finetune.sh sets it."""


def data_config() -> DataConfig:
    """The demo data's."""
    return get_data_config(CONFIG)


def training_data(
    dataset: Path, base_model: Path, cache: Path | None, jitter: dict[str, float] | None = None
) -> TrainingDataset:
    """Samples as a training of ``base_model`` has them."""
    files = processor_files.read(base_model)
    settings = files.settings.model_copy(update={"state_dropout_prob": 0.2, "color_jitter_params": jitter})
    return TrainingDataset([dataset], data_config(), settings, files.slot(TAG), frames=FrameStore(cache))


def main() -> None:
    """Serve it."""
    since = time.perf_counter()
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--base-model", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--jitter", type=json.loads)
    given = parser.parse_args()
    torch.set_num_threads(1)
    cache = given.work / "frames"
    collate = Collator(QwenProcessor.from_directory(given.base_model))
    data = training_data(given.dataset, given.base_model, cache, given.jitter)

    def turn(samples: int, seed: int, cold: bool) -> None:
        nonlocal data
        if cold:
            shutil.rmtree(cache, ignore_errors=True)
            data = training_data(given.dataset, given.base_model, cache, given.jitter)
            data.frames.prepare()
            return
        data.set_epoch(seed)
        order = np.random.default_rng(seed).permutation(len(data))[:samples].tolist()
        for first in range(0, len(order), BATCH):
            finish_images(collate(data.__getitems__(order[first : first + BATCH])))

    turn(BATCH, 0, cold=False)  # compiles the kernels, once per machine
    serve(turn, since)


if __name__ == "__main__":
    main()
