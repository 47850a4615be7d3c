"""The contestants of ``bench.data``, each in a separate process: ``python -m bench.data_contestants NAME …``."""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch

from bench.contest import serve
from bench.upstream_way.data import UpstreamWay
from trainer.data.collate import Collator, finish_images
from trainer.data.dataset import TrainingDataset
from trainer.data.dataset_meta import DatasetMeta
from trainer.data.video import decode_video
from trainer.gr00t.n15.processor import EagleProcessor

BATCH = 8
CONFIG = "fourier_gr1_arms_only"

Turn = Callable[[int, int, bool], None]


def ours(dataset: Path, work: Path, *, cached: bool) -> Turn:
    """TrainingDataset and Collator, as the training uses them, up to the batch on the device."""
    collate = Collator(EagleProcessor.from_directory(work / "base-model"))
    cache = work / f"frames-{os.getpid()}"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def fresh() -> TrainingDataset:
        return TrainingDataset([dataset], CONFIG, "new_embodiment", cache_dir=cache if cached else None)

    current = fresh()
    current.prepare()

    def turn(samples: int, seed: int, cold: bool) -> None:
        nonlocal current
        if cold:
            shutil.rmtree(cache, ignore_errors=True)
            current = fresh()
        current.set_epoch(seed)
        for indices in batches(len(current), samples, seed):
            batch = collate(current.__getitems__(indices))
            on_device = {
                key: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
                for key, value in batch.items()
            }
            finish_images(on_device)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return turn


def upstream_way(dataset: Path, work: Path, backend: str) -> Turn:
    """What ``bench.upstream_way.data`` describes."""
    steps = UpstreamWay(dataset, backend, EagleProcessor.from_directory(work / "base-model"))
    steps[0]  # an absent video backend shows here

    def turn(samples: int, seed: int, _: bool) -> None:
        for indices in batches(len(steps), samples, seed):
            steps.collate([steps[index] for index in indices])

    return turn


def decode(dataset: Path) -> Turn:
    """Limit: every video decoded once from start to end, to RGB, nothing kept; ``samples`` is ignored."""
    meta = DatasetMeta.load(dataset)
    videos = [meta.video_path(key, episode.episode_index) for episode in meta.episodes for key in meta.modality.video]

    def turn(_: int, __: int, ___: bool) -> None:
        for video in videos:
            for _frame in decode_video(video):
                pass

    return turn


def memcpy(dataset: Path) -> Turn:
    """Limit: a frame copied from one place in memory to another."""
    meta = DatasetMeta.load(dataset)
    width, height = meta.info.camera(meta.modality.column("video", next(iter(meta.modality.video)))).resolution
    source = np.random.default_rng(0).integers(0, 256, (256, height, width, 3), dtype=np.uint8)
    target = np.empty_like(source[0])

    def turn(samples: int, seed: int, _: bool) -> None:
        for index in np.random.default_rng(seed).integers(0, len(source), samples):
            np.copyto(target, source[index])

    return turn


def batches(length: int, samples: int, seed: int) -> Iterable[list[int]]:
    """``samples`` of ``length`` indices in random order, in batches."""
    chosen = np.random.default_rng(seed).permutation(length)[:samples].tolist()
    return (chosen[first : first + BATCH] for first in range(0, len(chosen), BATCH))


def main() -> None:
    """Serve one contestant."""
    since = time.perf_counter()
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    made = {
        "ours": lambda: ours(given.dataset, given.work, cached=True),
        "uncached": lambda: ours(given.dataset, given.work, cached=False),
        "torchvision_av": lambda: upstream_way(given.dataset, given.work, "torchvision_av"),
        "torchcodec": lambda: upstream_way(given.dataset, given.work, "torchcodec"),
        "decode": lambda: decode(given.dataset),
        "memcpy": lambda: memcpy(given.dataset),
    }[given.name]()
    serve(made, since)


if __name__ == "__main__":
    main()
