"""A synthetic pick-and-place dataset in exactly the format of Isaac-GR00T's ``robot_sim.PickNPlace``.

A GR1-like robot picks an object from a counter and puts it on a plate, seen from its head camera. Where object and
plate are is random, and shown by the picture alone: every episode starts from the same pose. A policy that ignores
the camera can't do better than the average reach. The same seed gives the same bytes.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trainer.data.body_parts import GR1_JOINTS
from trainer.data.statistics import statistics_of
from trainer.data.synthetic_scene import HEIGHT, OBJECTS, WIDTH, Arm, Scene
from trainer.errors import UsageError

FPS = 20
DIMENSIONS = 44
CAMERA = "observation.images.ego_view"
TASK_COLUMN = "annotation.human.action.task_description"
VALIDITY_COLUMN = "annotation.human.validity"
SLICES = GR1_JOINTS
"""GR1's joints, in radians, in state and action alike."""

HOME = np.array([206.0, 236.0])
"""Where the gripper starts and ends, in pixels."""


class Motion(NamedTuple):
    """The gripper over an episode of T steps."""

    position: np.ndarray
    """Pixels ``[T, 2]``, as projected on the counter."""
    lift: np.ndarray
    """``[T]``: 0 on the counter, 1 at the height of travel."""
    grip: np.ndarray
    """``[T]``: 0 open, 1 closed."""


def make_synthetic(path: Path, episodes: int = 5, seed: int = 0) -> Path:
    """Write a dataset of ``episodes`` demonstrations, 60 to 80 steps each, into the new folder ``path``.

    The folder appears complete or not at all. Raises ``UsageError`` when ``path`` exists.
    """
    if path.exists():
        raise UsageError(f"{path} exists.", "Name a new folder, or remove it first.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        _write(temporary, episodes, seed)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path


def _write(path: Path, episodes: int, seed: int) -> None:
    for folder in ("meta", "data/chunk-000", f"videos/chunk-000/{CAMERA}"):
        (path / folder).mkdir(parents=True)
    names = list(OBJECTS)
    instructions = [f"pick the {name} from the counter and place it in the plate" for name in names]
    # As in the demo dataset, the second task is the validity label.
    tasks = [instructions[0], "valid", *instructions[1:]]
    tables, lines = [], []
    for episode in range(episodes):
        rng = np.random.default_rng([seed, episode])
        kind = (seed + episode) % len(names)
        scene = Scene.random(names[kind], rng)
        motion = _motion(scene, steps=int(rng.integers(60, 81)))
        table = _table(motion, episode, tasks.index(instructions[kind]), first=sum(len(t["index"]) for t in tables))
        _write_parquet(path / f"data/chunk-000/episode_{episode:06d}.parquet", table)
        _write_video(path / f"videos/chunk-000/{CAMERA}/episode_{episode:06d}.mp4", _frames(scene, motion))
        tables.append(table)
        line = {"episode_index": episode, "tasks": [instructions[kind], "valid"], "length": len(motion.lift)}
        lines.append(line)
    meta = path / "meta"
    _write_lines(meta / "episodes.jsonl", lines)
    _write_lines(meta / "tasks.jsonl", [{"task_index": i, "task": task} for i, task in enumerate(tasks)])
    _write_json(meta / "modality.json", _modality())
    _write_json(meta / "info.json", _info(episodes, sum(line["length"] for line in lines), len(tasks)))
    stats = {name: statistics_of([table[name] for table in tables]) for name in tables[0]}
    _write_json(meta / "stats.json", {name: statistics.model_dump() for name, statistics in stats.items()})


def _motion(scene: Scene, steps: int) -> Motion:
    """Home, over the object, down, close, up, over the plate, down, open, home: minimum-jerk between these."""
    here, there, low, high = scene.object, scene.plate, 0.0, 1.0
    waypoints = [  # share of the episode, position, lift, grip
        (0.00, HOME, high, 0.0),
        (0.28, here, high, 0.0),
        (0.38, here, low, 0.0),
        (0.46, here, low, 1.0),
        (0.56, here, high, 1.0),
        (0.76, there, high, 1.0),
        (0.84, there, low, 1.0),
        (0.90, there, low, 0.0),
        (1.00, HOME, high, 0.0),
    ]
    at = np.array([point[0] for point in waypoints]) * (steps - 1)
    values = np.array([[*point[1], point[2], point[3]] for point in waypoints])
    path = np.empty((steps, 4))
    for t in range(steps):
        leg = int(min(np.searchsorted(at, t, side="right") - 1, len(at) - 2))
        share = (t - at[leg]) / (at[leg + 1] - at[leg])
        smooth = share**3 * (10 - 15 * share + 6 * share**2)
        path[t] = values[leg] + smooth * (values[leg + 1] - values[leg])
    return Motion(path[:, :2], path[:, 2], path[:, 3])


def joints(motion: Motion) -> np.ndarray:
    """The robot's joint angles ``[T, 44]``: the right arm by inverse kinematics, the left one balancing it."""
    arm = Arm.reaching(motion.position)
    away = (motion.position - HOME) / 150
    still = np.zeros_like(motion.lift)
    right_arm = [
        -0.4 + 0.5 * motion.lift,
        arm.shoulder + np.pi / 2,
        0.2 * np.sin(arm.shoulder),
        -arm.elbow,
        0.5 * (arm.shoulder + arm.elbow),
        0.3 - 0.3 * motion.lift,
        0.15 * motion.grip,
    ]
    left_arm = [
        0.02 + 0.08 * away[:, 0],
        0.05 - 0.1 * away[:, 1],
        still,
        -2.07 + 0.04 * motion.lift,
        still,
        still,
        still,
    ]
    right_hand = [1.2 * motion.grip] * 4 + [0.8 * motion.grip, still + 1.74]
    angles = np.zeros((len(still), DIMENSIONS))
    for name, columns in {"left_arm": left_arm, "right_arm": right_arm, "right_hand": right_hand}.items():
        angles[:, slice(*SLICES[name])] = np.stack(columns, axis=-1)
    return angles


def _table(motion: Motion, episode: int, task: int, first: int) -> dict[str, np.ndarray]:
    state = joints(motion)
    # A position-controlled robot: the action is where the joints are to be at the next step; hands are driven by
    # set points beyond their range, as the demo's are.
    action = np.concatenate([state[1:], state[-1:]])
    grip = np.append(motion.grip[1:], motion.grip[-1])[:, None]
    action[:, slice(*SLICES["left_hand"])] = [-1.5, -1.5, -1.5, -1.5, -3.0, 3.0]
    action[:, slice(*SLICES["right_hand"])] = np.array([-1.5, -1.5, -1.5, -1.5, -3.0, 3.0]) + grip * [3, 3, 3, 3, 6, 0]
    steps = len(state)
    done = np.arange(steps) == steps - 1
    return {
        "observation.state": state,
        "action": action,
        # Stored in float32's precision, as recordings are.
        "timestamp": (np.arange(steps) / FPS).astype(np.float32).astype(np.float64),
        TASK_COLUMN: np.full(steps, task),
        "task_index": np.full(steps, task),
        VALIDITY_COLUMN: np.ones(steps, dtype=np.int64),
        "episode_index": np.full(steps, episode),
        "index": np.arange(first, first + steps),
        "next.reward": done.astype(np.float64),
        "next.done": done,
    }


def _frames(scene: Scene, motion: Motion) -> np.ndarray:
    """uint8 ``[T, 256, 256, 3]``. From grasp to release the object moves with the gripper."""
    steps = len(motion.lift)
    held = np.flatnonzero(motion.grip > 0.5)
    frames = np.empty((steps, HEIGHT, WIDTH, 3), dtype=np.uint8)
    for t in range(steps):
        if t < held[0]:
            position, lift = scene.object, 0.0
        elif t <= held[-1]:
            position, lift = motion.position[t], motion.lift[t]
        else:
            position, lift = scene.plate, 0.0
        frames[t] = scene.draw(position, lift, motion.position[t], motion.lift[t], motion.grip[t])
    return frames


def _write_video(file: Path, frames: np.ndarray) -> None:
    import av

    with av.open(file, "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "18", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1  # x264's output depends on the number of threads
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _write_parquet(file: Path, table: dict[str, np.ndarray]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: pa.array(list(values) if values.ndim == 2 else values) for name, values in table.items()}
    pq.write_table(pa.table(columns), file)


def _modality() -> dict[str, Any]:
    slices = {name: {"start": start, "end": end} for name, (start, end) in SLICES.items()}
    return {
        "state": slices,
        "action": slices,
        "video": {"ego_view": {"original_key": CAMERA}},
        "annotation": {
            "human.action.task_description": {},
            "human.validity": {},
            "human.coarse_action": {"original_key": TASK_COLUMN},
        },
    }


def _info(episodes: int, frames: int, tasks: int) -> dict[str, Any]:
    vector = {"dtype": "float64", "shape": [DIMENSIONS], "names": [f"motor_{i}" for i in range(DIMENSIONS)]}
    scalars = {
        **dict.fromkeys(("timestamp", "next.reward"), "float64"),
        **dict.fromkeys((TASK_COLUMN, "task_index", VALIDITY_COLUMN, "episode_index", "index"), "int64"),
        "next.done": "bool",
    }
    video = {"video.fps": float(FPS), "video.codec": "h264", "video.pix_fmt": "yuv420p"}
    return {
        "codebase_version": "v2.0",
        "robot_type": "GR1ArmsOnly",
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": tasks,
        "total_videos": episodes,
        "total_chunks": 1,
        "chunks_size": 1000,
        "fps": float(FPS),
        "splits": {"train": f"0:{episodes}"},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": {
            CAMERA: {
                "dtype": "video",
                "shape": [HEIGHT, WIDTH, 3],
                "names": ["height", "width", "channel"],
                "video_info": {**video, "video.is_depth_map": False, "has_audio": False},
            },
            "observation.state": vector,
            "action": vector,
            **{name: {"dtype": dtype, "shape": [1]} for name, dtype in scalars.items()},
        },
    }


def _write_json(file: Path, document: Any) -> None:
    file.write_text(json.dumps(document, indent=4), encoding="utf-8")


def _write_lines(file: Path, documents: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(document) + "\n" for document in documents), encoding="utf-8")
