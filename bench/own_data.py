"""``python -m bench.own_data``: from a folder of one's own to the first training step, command by command.

An SO-101-like dataset of 200 episodes and two cameras without ``meta/modality.json``, in LeRobot v2.1 and in v3, or any
other that ``--dataset`` names (a copy of it is used). Of each command the seconds on the clock and of CPU, and what
there is on the disk after it. Commands that do something once are typed twice.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np

from bench.start import pippa_train
from bench.table import report, table
from tests.support.lerobot_v3 import to_v3

FPS = 30
JOINTS = ["shoulder_pan.pos", "shoulder_lift.pos", "elbow_flex.pos", "wrist_flex.pos", "wrist_roll.pos", "gripper.pos"]
CAMERAS = ("front", "wrist")
DIFFERENT = 4
"""Videos that are encoded; the others are these under other names, and differ in a comment, so that each is decoded."""
PER_FILE = 50
"""Episodes in a table and in a video of v3."""
TASK = "Grab pens and place into pen holder."


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, help="another one, of an SO-100 or SO-101 with two cameras")
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--frames", type=int, default=150, help="of each episode")
    parser.add_argument("--size", type=int, nargs=2, default=(320, 240), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--save", action="store_true", help="write bench/results/<date>-own_data.md")
    given = parser.parse_args()
    sections = []
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary) / "data"
        if given.dataset:
            shutil.copytree(given.dataset, data)
            ways = {str(json.loads((data / "meta/info.json").read_text())["codebase_version"]): data}
        else:
            make(data, given.episodes, given.frames, *given.size)
            ways = {"v2.1": data, "v3": to_v3(data, Path(temporary) / "data-v3", PER_FILE)}
            for number, file in enumerate(sorted(ways["v3"].rglob("*.mp4"))):  # each another one here, too
                renamed(file.rename(file.with_suffix(".same.mp4")), file, str(number))
                file.with_suffix(".same.mp4").unlink()
            sections.append(
                f"{given.episodes} episodes of {given.frames} frames, two cameras of {'x'.join(map(str, given.size))}."
            )
        found = {}
        for way, folder in ways.items():
            tables = len(list((folder / "data").rglob("*.parquet")))
            sections.append(f"{way}: {tables} tables, {gigabytes(folder):.2f} GB of files.")
            found[way] = typed(folder, Path(temporary) / way)
    columns = ["command"] + [f"{way}: {what}" for way in found for what in ("seconds", "CPU seconds")]
    times = [[name, *(each for way in found.values() for each in way[name][:2])] for name in found[way]]
    disks = [[name, *(each for way in found.values() for each in way[name][2:])] for name in found[way]]
    used = ["after"] + [f"{way}: {what}" for way in found for what in ("GB in PIPPA_HOME", "frames", "the store")]
    report(
        "own_data", "A dataset of one's own", [*sections, table(columns, times), table(used, disks)], save=given.save
    )


def typed(data: Path, folder: Path) -> dict[str, list[float]]:
    """Of each command seconds on the clock and of CPU, and GB in ``folder/home``: all, frames, the store."""
    home = folder / "home"
    environ = {**os.environ, "PIPPA_HOME": str(home), "WANDB_MODE": "offline"}

    def pippa(*argv: str) -> Callable[[], object]:
        command = [sys.executable, "-m", "flows.cli", *argv]
        return lambda: subprocess.run(command, env=environ, check=True, capture_output=True)

    flags = ("--dataset-path", str(data), "--data-config", "so100_dualcam", "--evaluate", "none")
    steps: dict[str, Callable[[], object]] = {
        "data init --yes": pippa("data", "init", str(data), "--yes"),
        "data check": pippa("data", "check", str(data)),
        "data check, again": pippa("data", "check", str(data)),
        "data show": pippa("data", "show", str(data)),
        "data show, again": pippa("data", "show", str(data)),
        "train smoke, to its first step": lambda: pippa_train(folder, environ, *flags),
        "train smoke, again": lambda: pippa_train(folder, environ, *flags),
    }
    return {
        name: [*measured(step), *(gigabytes(home / part) for part in ("", "cache/frames", "store"))]
        for name, step in steps.items()
    }


def measured(step: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock and of CPU, of all processes that have ended by then."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    step()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - began, cpu


def gigabytes(folder: Path) -> float:
    """Of the files in ``folder``, each hard link once."""
    files = {
        (about.st_dev, about.st_ino): about.st_blocks * 512 for file in folder.rglob("*") if (about := file.lstat())
    }
    return sum(files.values()) / 1e9


def make(folder: Path, episodes: int, frames: int, width: int, height: int) -> None:
    """Write the dataset."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "meta").mkdir(parents=True)
    (folder / "data/chunk-000").mkdir(parents=True)
    vector = {"dtype": "float32", "shape": [len(JOINTS)], "names": JOINTS}
    scalars = ("frame_index", "episode_index", "index", "task_index")
    video = {"dtype": "video", "shape": [height, width, 3], "names": ["height", "width", "channels"]}
    info = {
        "codebase_version": "v2.1",
        "robot_type": "so101_follower",
        "total_episodes": episodes,
        "total_frames": episodes * frames,
        "total_tasks": 1,
        "chunks_size": 1000,
        "fps": FPS,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": {
            "observation.state": vector,
            "action": vector,
            "timestamp": {"dtype": "float32", "shape": [1], "names": None},
            **{name: {"dtype": "int64", "shape": [1], "names": None} for name in scalars},
            **{f"observation.images.{name}": {**video, "info": {"video.fps": float(FPS)}} for name in CAMERAS},
        },
    }
    (folder / "meta/info.json").write_text(json.dumps(info))
    (folder / "meta/tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": TASK}) + "\n")
    lines = [json.dumps({"episode_index": each, "tasks": [TASK], "length": frames}) for each in range(episodes)]
    (folder / "meta/episodes.jsonl").write_text("\n".join(lines) + "\n")
    recorded = [
        encoded(folder.parent / f"recorded-{number}.mp4", number, frames, width, height) for number in range(DIFFERENT)
    ]
    for episode in range(episodes):
        steps = np.arange(frames + 1)
        course = 60 * np.sin(np.outer(steps + 7 * episode, np.arange(1, len(JOINTS) + 1)) / 40).astype(np.float32)
        table_ = {
            "observation.state": pa.array(list(course[:-1])),
            "action": pa.array(list(course[1:])),
            "timestamp": (steps[:-1] / FPS).astype(np.float32),
            **{name: np.zeros(frames, dtype=np.int64) for name in scalars},
        } | {"frame_index": steps[:-1], "episode_index": np.full(frames, episode)}
        pq.write_table(pa.table(table_), folder / f"data/chunk-000/episode_{episode:06d}.parquet")
        for place, camera in enumerate(CAMERAS):
            target = folder / f"videos/chunk-000/observation.images.{camera}/episode_{episode:06d}.mp4"
            target.parent.mkdir(parents=True, exist_ok=True)
            renamed(recorded[(episode + place) % DIFFERENT], target, f"{camera} {episode}")


def encoded(file: Path, seed: int, frames: int, width: int, height: int) -> Path:
    """A video of a square that moves over noise."""
    import av

    noise = np.random.default_rng(seed).integers(90, 160, (height, width, 3), dtype=np.uint8)
    with av.open(file, "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "g": "2"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            frame = noise.copy()
            left = number * 3 % (width - 40)
            frame[height // 3 : height // 3 + 40, left : left + 40] = (220, 40 * seed, 30)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return file


def renamed(file: Path, target: Path, comment: str) -> None:
    """The same packets with another comment beside them."""
    import av

    with av.open(file) as source, av.open(target, "w") as container:
        container.metadata["comment"] = comment
        ours = source.streams.video[0]
        stream = container.add_stream_from_template(ours)
        stream.time_base = Fraction(1, FPS * 512)
        for packet in source.demux(ours):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)


if __name__ == "__main__":
    main()
