"""A few frames of an SO-101 with two cameras, as LeRobot v2.1 records them: without ``meta/modality.json``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.trainer.data.videos import write_video

FRAMES = 12
FPS = 30
TASK = "Grab pens and place into pen holder."
JOINTS = [f"{joint}.pos" for joint in "shoulder_pan shoulder_lift elbow_flex wrist_flex wrist_roll gripper".split()]


def make_so101(path: Path, cameras: tuple[str, ...] = ("front", "wrist"), joints: int = 6, episodes: int = 2) -> Path:
    """Write the dataset into the new folder ``path``."""
    (path / "meta").mkdir(parents=True)
    (path / "data/chunk-000").mkdir(parents=True)
    vector = {"dtype": "float32", "shape": [joints], "names": JOINTS[:joints]}
    scalar = {name: {"dtype": "int64", "shape": [1], "names": None} for name in SCALARS}
    video = {"dtype": "video", "shape": [48, 64, 3], "names": ["height", "width", "channels"]}
    features = {f"observation.images.{name}": {**video, "info": {"video.fps": float(FPS)}} for name in cameras}
    info = {
        "codebase_version": "v2.1",
        "robot_type": "so101_follower",
        "total_episodes": episodes,
        "total_frames": episodes * FRAMES,
        "total_tasks": 1,
        "total_videos": episodes * len(cameras),
        "total_chunks": 1,
        "chunks_size": 1000,
        "fps": FPS,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": {"action": vector, "observation.state": vector, "timestamp": {**vector, "shape": [1]}}
        | scalar
        | features,
    }
    (path / "meta/info.json").write_text(json.dumps(info))
    (path / "meta/tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": TASK}) + "\n")
    lines = [{"episode_index": each, "tasks": [TASK], "length": FRAMES} for each in range(episodes)]
    (path / "meta/episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for episode in range(episodes):
        steps = np.arange(FRAMES)
        values = np.sin(np.outer(steps + episode, np.arange(1, joints + 1)) / 9).astype(np.float32)
        columns = {
            "action": pa.array(list(values)),
            "observation.state": pa.array(list(values)),
            "timestamp": (steps / FPS).astype(np.float32),
            "frame_index": steps,
            "episode_index": np.full(FRAMES, episode),
            "index": steps + episode * FRAMES,
            "task_index": np.zeros(FRAMES, dtype=np.int64),
        }
        pq.write_table(pa.table(columns), path / f"data/chunk-000/episode_{episode:06d}.parquet")
        for name in cameras:
            file = path / f"videos/chunk-000/observation.images.{name}/episode_{episode:06d}.mp4"
            file.parent.mkdir(parents=True, exist_ok=True)
            write_video(file, FRAMES, fps=FPS)
    return path


SCALARS = ("frame_index", "episode_index", "index", "task_index")
