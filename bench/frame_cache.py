"""What a frame costs in the cache, in bytes and in CPU time: ``uv run python -m bench.frame_cache``.

As RGB, as planes (8-bit 4:2:0, ``trainer/data/planar.py``), either of them compressed, and not kept at all. A loaded
sample is what a training on a GPU asks of the CPU; a finished one is resized and jittered here as well.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import torch

from bench.lerobot_v3 import CONFIG, record
from bench.table import report, table
from trainer.data.checks import check_dataset
from trainer.data.dataset import TrainingDataset, decoded_videos
from trainer.data.frames import FrameStore
from trainer.data.result_cache import ResultCache
from trainer.data.transforms.augment import augment

ON_GPU = "planes, converted on the GPU"
CODECS = ("lz4_raw", "zstd")
DEMO = Path(__file__).resolve().parents[2] / "shared" / "demo_data" / "robot_sim.PickNPlace"


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=256, help="of a round")
    parser.add_argument("--save", action="store_true", help="keep the result in bench/results")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        recording = record(work / "v3", 8, 60, 8, (640, 480), "libsvtav1")
        sections = [samples(recording, work, given.rounds, given.samples), compressed(recording, work)]
    report("frame_cache", "The frame cache", sections, save=given.save)


def samples(recording: Path, work: Path, rounds: int, count: int) -> str:
    """Samples per CPU second from each form of the cache."""
    memory = ResultCache()
    statistics = [check_dataset(recording, CONFIG, memory=memory).statistics]

    def dataset(name: str | None, share: float | None, *, on_gpu: bool = False) -> TrainingDataset:
        cache = None if name is None else work / name
        made = TrainingDataset(
            [recording],
            CONFIG,
            "new_embodiment",
            statistics=statistics,
            memory=memory,
            cache_dir=cache,
            cache_bytes=None if share is None else int(share * 8 * 60 * 2 * 640 * 480 * 3) + 1,
            on_gpu=on_gpu,
        )
        made.prepare()
        return made

    ways = {
        "RGB": dataset("rgb", None),
        "planes": dataset("planes", 0.5),
        ON_GPU: dataset("planes", 0.5, on_gpu=True),
        "decoded": dataset(None, None),
    }
    rng = np.random.default_rng(0)
    loaded: dict[str, list[float]] = {name: [] for name in ways}
    finished: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):  # the first warms up
        for name, each in ways.items():
            chosen = rng.integers(0, len(each), count if name != "decoded" else count // 4).tolist()
            batches = [chosen[first : first + 8] for first in range(0, len(chosen), 8)]
            loaded[name].append(rate(lambda b=batches, e=each: [e.__getitems__(one) for one in b], len(chosen)))

            def finish(batches: list[list[int]] = batches, each: TrainingDataset = each) -> None:
                for one in batches:
                    batch = each.__getitems__(one)
                    augment(batch.frames, batch.jitter)

            if name == ON_GPU:
                continue
            finished[name].append(rate(finish, len(chosen)))
    planes = size_of(work / "planes")
    sizes = {"RGB": size_of(work / "rgb"), "planes": planes, ON_GPU: planes, "decoded": 0}
    rows: list[list[object]] = []
    for name in ways:
        rows.append([name, sizes[name] / (8 * 60 * 2 * 640 * 480)])
        for rates in (loaded, finished):
            found = median(rates[name][1:]) if rates[name] else 0.0
            rows[-1] += [found, found / median(rates["RGB"][1:])] if found else ["", ""]
    head = ["", "bytes a pixel", "loaded, samples per CPU s", "of RGB's", "finished, samples per CPU s", "of RGB's"]
    return (
        "Two cameras of 640x480, AV1 as LeRobot records it; batches of 8, one thread; "
        f"medians of {rounds} rounds.\n\n{table(head, rows)}"
    )


def compressed(recording: Path, work: Path) -> str:
    """What compression would add, frame by frame, on drawn and on rendered frames."""
    rows: list[list[object]] = []
    for name, folder, config in (("drawn", recording, CONFIG), ("demo data", DEMO, "fourier_gr1_arms_only")):
        if not folder.is_dir():
            continue
        for form, share in (("RGB", 1.0), ("planes", 0.5)):
            dataset = TrainingDataset([folder], config, "new_embodiment")
            source, size = decoded_videos(dataset.readers[0])[0]
            store = FrameStore(work / f"{name}-{form}", max_bytes=int(size * share) + 1)
            store.plan([(source, size)])
            store.prepare()
            frames = np.load(next((work / f"{name}-{form}").rglob("frames.npy")))[:32]
            for kind in CODECS:
                codec = pa.Codec(kind, compression_level=1) if kind == "zstd" else pa.Codec(kind)
                packed = [codec.compress(frame.tobytes()) for frame in frames]
                began = time.process_time()
                for each in packed:
                    codec.decompress(each, frames[0].nbytes)
                spent = (time.process_time() - began) / len(packed)
                pixels = frames[0].size / (3 if form == "RGB" else 1.5)
                stored = sum(each.size for each in packed) / len(packed) / pixels
                rows.append([name, form, kind, stored, 1e9 * spent / pixels])
    return table(["frames", "kept as", "compressed by", "bytes a pixel", "ms CPU a megapixel to unpack"], rows)


def rate(act: Callable[[], object], count: int) -> float:
    """Samples per CPU second."""
    began = time.process_time()
    act()
    return count / (time.process_time() - began)


def size_of(cache: Path) -> int:
    """Bytes of the entries."""
    return sum(file.stat().st_size for file in cache.rglob("frames.npy"))


if __name__ == "__main__":
    main()
