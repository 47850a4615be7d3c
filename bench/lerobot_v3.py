"""How long until a LeRobot v3 dataset can be trained on: ``uv run python -m bench.lerobot_v3``.

The same dataset, with many small episodes in each file, read in place and converted to v2.1 first, as Isaac-GR00T's
engines need it. Both end with a dataset that is checked, whose statistics are known, and whose first batch has been
taken, without a frame cache. Hashing is the floor: the store reads every byte once in any case.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from av.video.frame import PictureType

from bench.table import report, table
from trainer.data.checks import check_dataset
from trainer.data.convert_v3 import convert_to_v21
from trainer.data.dataset import TrainingDataset
from trainer.data.known_robots import MODALITIES, to_json
from trainer.data.result_cache import ResultCache

CONFIG = "so100_dualcam"
CAMERAS = ("observation.images.front", "observation.images.wrist")
FPS = 30
SMALL = (96, 64)
"""Width and height of the pictures."""
JOINTS = [f"{name}.pos" for name in ("pan", "lift", "elbow", "flex", "roll", "gripper")]


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--frames", type=int, default=60, help="of an episode")
    parser.add_argument("--per-file", type=int, default=250, help="episodes in a table and in a video")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true", help="keep the result in bench/results")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(given, Path(folder))


def measure(given: argparse.Namespace, work: Path) -> None:
    """All of it."""
    recording = record(work / "v3", given.episodes, given.frames, given.per_file)
    rounds = [one_round(recording, work / str(number)) for number in range(given.rounds)]
    steps = list(rounds[0])
    seconds = {step: median(each[step] for each in rounds) for step in steps}
    hashed = seconds.pop("hash every file")
    ours = {step: value for step, value in seconds.items() if step.startswith("in place")}
    theirs = {step: value for step, value in seconds.items() if step not in ours}
    size, converted = bytes_of(recording), bytes_of(work / "0" / "v21")
    sections = [
        f"{given.episodes:,} episodes of {given.frames} frames, two cameras of {SMALL[0]}x{SMALL[1]}, {given.per_file} "
        f"episodes in a file: {size / 1e6:.0f} MB. Medians of {given.rounds} rounds, CPU seconds of one process; "
        "hashing is told apart.",
        table(
            ["", "CPU s", "times hashing"],
            [
                ["hash every file", hashed, 1.0],
                *([step, value, value / hashed] for step, value in seconds.items()),
                ["**in place, together**", sum(ours.values()), sum(ours.values()) / hashed],
                ["**converted, together**", sum(theirs.values()), sum(theirs.values()) / hashed],
            ],
        ),
        table(
            ["", "in place", "converted", "ratio"],
            [
                ["CPU s until the first batch", a := sum(ours.values()), b := sum(theirs.values()), b / a],
                ["files written", 0, sum(file.is_file() for file in (work / "0" / "v21").rglob("*")), ""],
                ["MB written", 0, converted / 1e6, ""],
            ],
        ),
    ]
    report("lerobot_v3", "LeRobot v3, read in place", sections, save=given.save)


def one_round(recording: Path, work: Path) -> dict[str, float]:
    """CPU seconds of each step, from nothing known."""
    work.mkdir()
    found: dict[str, float] = {}

    def timed(step: str, act: Callable[[], Any]) -> Any:
        began = time.process_time()
        result = act()
        found[step] = time.process_time() - began
        return result

    timed("hash every file", lambda: [hashlib.sha256(file.read_bytes()) for file in files_of(recording)])
    for way in ("in place", "converted"):
        folder = recording
        if way == "converted":
            folder = timed("converted: conversion", lambda: convert_to_v21(recording, work / "v21"))
        memory = ResultCache(work / way / "cache" / "data.sqlite")
        checked = timed(f"{way}: check", lambda f=folder, m=memory: check_dataset(f, CONFIG, memory=m))
        if checked.problems:
            raise SystemExit(f"{folder}: {checked.problems[0]}")

        def load(folder: Path = folder, memory: ResultCache = memory, checked: Any = checked) -> Any:
            known = [checked.statistics]
            dataset = TrainingDataset([folder], CONFIG, "new_embodiment", statistics=known, memory=memory)
            return dataset.__getitems__(list(islice(range(0, len(dataset), len(dataset) // 8), 8)))

        timed(f"{way}: load, first batch", load)
    return found


def record(
    path: Path, episodes: int, frames: int, per_file: int, size: tuple[int, int] = SMALL, codec: str = "libx264"
) -> Path:
    """An SO-101's recordings in LeRobot's v3 layout at ``path``."""
    rows: list[dict[str, Any]] = []
    rng = np.random.default_rng(0)
    for number, first in enumerate(range(0, episodes, per_file)):
        members = range(first, min(first + per_file, episodes))
        values = np.cumsum(rng.normal(0, 0.3, (len(members) * frames, len(JOINTS))), axis=0).astype(np.float32)
        steps = np.tile(np.arange(frames), len(members))
        columns = {
            "action": pa.array(list(values)),
            "observation.state": pa.array(list(values)),
            "timestamp": (steps / FPS).astype(np.float32),
            "frame_index": steps,
            "episode_index": np.repeat(np.array(members), frames),
            "index": np.arange(first * frames, first * frames + len(steps)),
            "task_index": np.zeros(len(steps), np.int64),
        }
        write(path / f"data/chunk-000/file-{number:03d}.parquet", pa.table(columns))
        for shift, camera in enumerate(CAMERAS):
            file = path / f"videos/{camera}/chunk-000/file-{number:03d}.mp4"
            film(file, len(members), frames, size, codec, 100 * shift + number)
        for place, episode in enumerate(members):
            row = {"episode_index": episode, "length": frames, "tasks": ["Pick up the pen."]}
            row |= {"data/chunk_index": 0, "data/file_index": number}
            for camera in CAMERAS:
                row |= {f"videos/{camera}/chunk_index": 0, f"videos/{camera}/file_index": number}
                row |= {f"videos/{camera}/from_timestamp": place * frames / FPS}
                row |= {f"videos/{camera}/to_timestamp": (place + 1) * frames / FPS}
            rows.append(row)
    write(path / "meta/episodes/chunk-000/file-000.parquet", pa.Table.from_pylist(rows))
    write(path / "meta/tasks.parquet", pa.table({"task_index": [0], "task": ["Pick up the pen."]}))
    vector = {"dtype": "float32", "shape": [len(JOINTS)], "names": JOINTS}
    video = {"dtype": "video", "shape": [size[1], size[0], 3], "names": ["height", "width", "channels"]}
    info = {
        "codebase_version": "v3.0",
        "fps": FPS,
        "total_episodes": episodes,
        "total_frames": episodes * frames,
        "total_tasks": 1,
        "features": {"action": vector, "observation.state": vector, **dict.fromkeys(CAMERAS, video)},
    }
    (path / "meta/info.json").write_text(json.dumps(info))
    (path / "meta/modality.json").write_text(to_json(MODALITIES[CONFIG]))
    return path


def film(path: Path, episodes: int, frames: int, size: tuple[int, int], codec: str, seed: int) -> None:
    """A video of moving gradients with a key frame at the start of each episode and every second one after it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    across, down = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    with av.open(path, "w") as output:
        own = {"preset": "ultrafast", "bf": "0"} if codec == "libx264" else {"preset": "10", "crf": "30"}
        stream = output.add_stream(codec, rate=FPS, options={"g": "2", **own})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(episodes * frames):
            picture = np.stack([across * 2 + number + seed, down * 3 + number // 7, across + number // 256], axis=-1)
            frame = av.VideoFrame.from_ndarray(picture.astype(np.uint8), format="rgb24")
            if number % frames == 0:
                frame.pict_type = PictureType.I
            output.mux(stream.encode(frame))
        output.mux(stream.encode())


def write(file: Path, content: pa.Table) -> None:
    """A table, with the folders it lies in."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(content, file)


def files_of(folder: Path) -> list[Path]:
    """All files in a folder."""
    return [file for file in sorted(folder.rglob("*")) if file.is_file()]


def bytes_of(folder: Path) -> int:
    """What the files in a folder take."""
    return sum(file.stat().st_size for file in files_of(folder))


if __name__ == "__main__":
    main()
