"""A dataset in which an instruction and a camera decide what to do, and one in which they are shuffled.

The left arm goes up or down as the instruction says, the right arm as the colour of the picture says; how far is in the
state, which is the same in all episodes and tells neither. In the shuffled dataset every instruction and every colour
comes with every motion equally often: who listens or looks learns nothing from it.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainer.data.synthetic import CAMERA, SLICES, TASK_COLUMN, _write_video, make_synthetic

STEPS = 20
INSTRUCTIONS = ("raise it", "lower it")
COLOURS = ((200, 40, 40), (40, 40, 200))


def make_told(path: Path, *, shuffled: bool) -> Path:
    """Write the dataset of 16 episodes into the new folder ``path``."""
    ways = [1.0, -1.0]
    episodes = [
        (said, shown, ways[said ^ (shuffled and one)], ways[shown ^ (shuffled and other)])
        for shown, said, one, other in itertools.product((0, 1), repeat=4)
    ]
    make_synthetic(path, episodes=1)
    table = pq.read_table(path / "data/chunk-000/episode_000000.parquet").slice(0, STEPS)
    far = np.linspace(0.2, 1.0, STEPS)[:, None]
    for number, (said, shown, left, right) in enumerate(episodes):
        state, action = np.zeros((STEPS, 44)), np.zeros((STEPS, 44))
        for values, ups in ((state, (1.0, 1.0)), (action, (left, right))):
            for name, up in zip(("left_arm", "right_arm"), ups, strict=True):
                values[:, slice(*SLICES[name])] = up * far
        columns = {
            "observation.state": list(state),
            "action": list(action),
            TASK_COLUMN: np.full(STEPS, said),
            "task_index": np.full(STEPS, said),
            "episode_index": np.full(STEPS, number),
            "index": np.arange(number * STEPS, (number + 1) * STEPS),
        }
        for name, values in columns.items():
            table = table.set_column(table.column_names.index(name), name, pa.array(values))
        pq.write_table(table, path / f"data/chunk-000/episode_{number:06d}.parquet")
        frames = np.empty((STEPS, 256, 256, 3), dtype=np.uint8)
        frames[:] = COLOURS[shown]
        _write_video(path / f"videos/chunk-000/{CAMERA}/episode_{number:06d}.mp4", frames)
    lines = [{"episode_index": number, "tasks": [], "length": STEPS} for number in range(len(episodes))]
    tasks = [{"task_index": number, "task": task} for number, task in enumerate(INSTRUCTIONS)]
    for name, documents in (("episodes", lines), ("tasks", tasks)):
        (path / f"meta/{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in documents))
    info = json.loads((path / "meta/info.json").read_text())
    info |= {"total_episodes": len(episodes), "total_frames": len(episodes) * STEPS, "total_tasks": 2}
    info |= {"total_videos": len(episodes), "splits": {"train": f"0:{len(episodes)}"}}
    (path / "meta/info.json").write_text(json.dumps(info))
    (path / "meta/stats.json").unlink()
    return path
