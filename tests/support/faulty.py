"""Datasets with a fault in one episode, made from a clean one: tables changed, or videos encoded again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainer.data.synthetic import CAMERA, FPS, SLICES, _write_video
from trainer.data.video import decode_video

Table = dict[str, np.ndarray]


def copied(clean: Path, target: Path) -> Path:
    """A dataset that may be changed."""
    return Path(shutil.copytree(clean, target))


def change_table(folder: Path, episode: int, change: Callable[[Table], Table | None]) -> None:
    """Let ``change`` edit the columns of an episode, in place or by new ones of another length."""
    file = folder / f"data/chunk-000/episode_{episode:06d}.parquet"
    table = pq.read_table(file)
    columns = {name: np.array(table[name].to_pylist()) for name in table.column_names}
    columns = change(columns) or columns
    pq.write_table(
        pa.table({name: pa.array(list(each) if each.ndim == 2 else each) for name, each in columns.items()}), file
    )
    lines = [json.loads(line) for line in (folder / "meta/episodes.jsonl").read_text().splitlines()]
    for line in lines:
        if line["episode_index"] == episode:
            line["length"] = len(columns["timestamp"])
    (folder / "meta/episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def change_frames(folder: Path, episode: int, change: Callable[[np.ndarray], np.ndarray | None]) -> None:
    """Let ``change`` edit the frames of an episode, uint8 ``[T, H, W, 3]``."""
    file = folder / f"videos/chunk-000/{CAMERA}/episode_{episode:06d}.mp4"
    frames = np.stack([frame for _, frame in decode_video(file)])
    frames = frames if (changed := change(frames)) is None else changed
    file.unlink()
    _write_video(file, frames)


def joint(name: str, number: int) -> int:
    """The place of a joint in state and action."""
    return SLICES[name][0] + number


def frozen(folder: Path, episode: int, first: int = 15, last: int = 45) -> None:
    """The camera stops."""

    def change(frames: np.ndarray) -> None:
        frames[first : last + 1] = frames[first]

    change_frames(folder, episode, change)


def black(folder: Path, episode: int, count: int = 4) -> None:
    """The camera begins late."""

    def change(frames: np.ndarray) -> None:
        frames[:count] = 0

    change_frames(folder, episode, change)


def jump(folder: Path, episode: int, row: int = 30) -> None:
    """A sensor's glitch."""

    def change(table: Table) -> None:
        values = table["observation.state"][:, joint("right_arm", 1)]
        table["observation.state"][row, joint("right_arm", 1)] += 2 * np.ptp(values)

    change_table(folder, episode, change)


def dead(folder: Path, episode: int) -> None:
    """A sensor that is off."""

    def change(table: Table) -> None:
        table["observation.state"][:, joint("right_arm", 3)] = table["observation.state"][0, joint("right_arm", 3)]

    change_table(folder, episode, change)


def late(folder: Path, episode: int, rows: int = 5) -> None:
    """Actions that are recorded after what they did."""

    def change(table: Table) -> None:
        table["action"] = np.concatenate([table["action"][:1]] * rows + [table["action"][:-rows]])

    change_table(folder, episode, change)


def idle(folder: Path, episode: int, seconds: float = 3.0) -> None:
    """The robot waits in the middle, and the camera continues."""
    rows = round(seconds * FPS)

    def wait(values: np.ndarray) -> np.ndarray:
        middle = len(values) // 2
        return np.concatenate([values[:middle], np.repeat(values[middle : middle + 1], rows, axis=0), values[middle:]])

    def change(table: Table) -> Table:
        waited = {name: wait(values) for name, values in table.items()}
        middle = len(table["action"]) // 2
        waited["action"][middle : middle + rows] = waited["observation.state"][middle : middle + rows]
        count = len(waited["timestamp"])
        return {**waited, "timestamp": (np.arange(count) / FPS).astype(np.float32).astype(np.float64)}

    change_table(folder, episode, change)
    change_frames(folder, episode, wait)


def blocked(folder: Path, episode: int) -> None:
    """A joint that stops where its action continues."""

    def change(table: Table) -> None:
        place = joint("right_arm", 3)
        state, low = table["observation.state"][:, place], table["observation.state"][:, place].min()
        table["observation.state"][:, place] = np.maximum(state, low + 0.5 * np.ptp(state))

    change_table(folder, episode, change)


def elsewhere(folder: Path, episode: int) -> None:
    """Another calibration."""

    def change(table: Table) -> None:
        for column in ("observation.state", "action"):
            table[column][:, joint("right_arm", 1)] += 2.0

    change_table(folder, episode, change)


def cut_short(folder: Path, episode: int, rows: int = 20) -> None:
    """A recording that was broken off."""
    change_table(folder, episode, lambda table: {name: values[:rows] for name, values in table.items()})
    change_frames(folder, episode, lambda frames: frames[:rows])


def again(folder: Path, episode: int, other: int = 0) -> None:
    """The same recording under two numbers."""
    for file in ("data/chunk-000/episode_{:06d}.parquet", f"videos/chunk-000/{CAMERA}/episode_{{:06d}}.mp4"):
        shutil.copyfile(folder / file.format(other), folder / file.format(episode))
    change_table(folder, episode, lambda table: {**table, "episode_index": np.full(len(table["index"]), episode)})


def damaged(folder: Path, episode: int) -> None:
    """A table that is cut off."""
    file = folder / f"data/chunk-000/episode_{episode:06d}.parquet"
    file.write_bytes(file.read_bytes()[:500])


def copied_action(folder: Path, episode: int) -> None:
    """The action is where the robot is."""

    def change(table: Table) -> None:
        table["action"] = table["observation.state"].copy()

    change_table(folder, episode, change)


FAULTS: dict[str, Callable[[Path, int], None]] = {
    "unreadable": damaged,
    "blank": black,
    "frozen": frozen,
    "jump": jump,
    "still": dead,
    "limit": blocked,
    "lag": late,
    "copy": copied_action,
    "idle": idle,
    "length": cut_short,
    "far": elsewhere,
    "twice": again,
}
"""By the name of the rule that finds it."""
