"""Datasets as people have them that can be trained on: with the right frames, and a warning where one is due."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.frames_seen import frames_trained_on, require_frames
from tests.support.so101 import FPS, FRAMES, TASK
from tests.support.so101_cases import (
    CAMERAS,
    CONFIG,
    EPISODES,
    JITTER,
    ROWS,
    Change,
    both,
    camera_info,
    columns,
    document,
    edited,
    feature,
    film,
    films,
    images_in_tables,
    instructed,
    lines,
    make,
    one_row,
    parquet,
    recast,
    seconds,
    slower_table,
    statistics,
    tasks,
    text,
)
from trainer.config.data_options import DataOptions
from trainer.data.checks import Checked, check_dataset, format_problems


def numbered_otherwise(path: Path) -> None:
    """Episodes 3 and 1004 instead of 0 and 1: a gap, and another chunk."""
    for before, after in ((1, 1004), (0, 3)):
        for file in path.rglob(f"episode_{before:06d}.*"):
            chunk = file.parts.index("chunk-000")
            target = Path(*file.parts[:chunk], f"chunk-{after // 1000:03d}", *file.parts[chunk + 1 : -1])
            target.mkdir(parents=True, exist_ok=True)
            file.rename(target / f"episode_{after:06d}{file.suffix}")
            if file.suffix == ".parquet":
                table = pq.read_table(target / f"episode_{after:06d}.parquet").drop_columns(["episode_index"])
                pq.write_table(table, target / f"episode_{after:06d}.parquet")
    lines("episodes.jsonl", [{"episode_index": e, "length": FRAMES} for e in (3, 1004)])(path)


def linked(path: Path) -> None:
    """Every table and video as a link to a file elsewhere, as in Hugging Face's cache."""
    for number, file in enumerate([*path.rglob("*.parquet"), *path.rglob("*.mp4")]):
        blob = path.parent / "blobs" / str(number)
        blob.parent.mkdir(exist_ok=True)
        file.rename(blob)
        file.symlink_to(blob)


def extra_table(path: Path) -> None:
    shutil.copy(parquet(path, 0), parquet(path, 2))


def swapped(path: Path) -> None:
    """The tables of the two episodes under each other's name."""
    parquet(path, 0).rename(path / "x")
    parquet(path, 1).rename(parquet(path, 0))
    (path / "x").rename(parquet(path, 1))


def wide_vectors(path: Path) -> None:
    """Two dimensions more than the data config uses, the last of them never measured."""
    recast(lambda rows: pa.array([[*row, 0.0, float("nan")] for row in rows]))(path)
    for name in ("action", "observation.state"):
        feature(name, shape=[8])(path)


def unused_nan(path: Path) -> None:
    columns(observation__effort=pa.array([[float("nan")] * 6] * FRAMES))(path)
    entry = {"start": 0, "end": 6, "original_key": "observation.effort"}
    document("modality.json", lambda m: m["state"].update(effort=entry))(path)


COARSE = {"base": Fraction(1, 1000), "pts": [round(1000 * k / FPS) for k in range(FRAMES)]}

TRAIN: dict[str, Change] = {
    "as recorded": both(),
    # a row's time
    "stamps of one period later": seconds((ROWS + 1) / FPS),
    "stamps in float64": columns(timestamp=ROWS / FPS),
    "stamps as durations": columns(timestamp=pa.array([int(1e6 * k / FPS) for k in ROWS], pa.duration("us"))),
    "stamps rounded to hundredths": seconds(np.round(ROWS / FPS, 2)),
    "stamps that jitter": seconds(ROWS / FPS + JITTER),
    "stamps in lists of one": columns(timestamp=pa.array([[k / FPS] for k in ROWS.tolist()])),
    "a video that begins a third of a period late": films(
        film, base=Fraction(1, 3 * FPS), pts=[3 * k + 1 for k in range(FRAMES)]
    ),
    "frames beyond the rows": films(film, frames=FRAMES + 5),
    "B-frames": films(film, options={"bf": "2", "g": "12"}),
    "a clock of milliseconds": films(film, **COARSE),
    "rates that vary, in table and video alike": both(
        seconds(ROWS / FPS + JITTER),
        films(film, base=Fraction(1, 90000), pts=[int(90000 * (k / FPS + j + 0.005)) for k, j in enumerate(JITTER)]),
    ),
    "a sound track before the pictures": films(film, audio=True),
    # tables
    "large lists of polars": recast(lambda rows: pa.array(rows, pa.large_list(pa.float32()))),
    "lists of a fixed size": recast(lambda rows: pa.array(rows, pa.list_(pa.float64(), 6))),
    "views of lists": recast(lambda rows: pa.array(rows, pa.list_view(pa.float32()))),
    "half precision": recast(lambda rows: pa.array([np.array(row, np.float16) for row in rows])),
    "whole numbers": recast(lambda rows: pa.array([[round(9 * value) for value in row] for row in rows])),
    "booleans": recast(lambda rows: pa.array([[value > 0 for value in row] for row in rows])),
    "a tensor type": recast(
        lambda rows: pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.float32(), [6]), pa.array(rows, pa.list_(pa.float32(), 6))
        )
    ),
    "an instruction as a category": instructed(pa.array(["fold the towel"] * FRAMES).dictionary_encode()),
    "an instruction in lists of one": instructed([["fold the towel"]] * FRAMES),
    "task numbers as floats": columns(task_index=np.zeros(FRAMES)),
    "text, and no tasks.jsonl": both(
        instructed(["fold the towel"] * FRAMES), lambda p: (p / "meta/tasks.jsonl").unlink()
    ),
    "text, and a broken tasks.jsonl": both(instructed(["fold"] * FRAMES), text("meta/tasks.jsonl", "{")),
    "an unused column of NaN": unused_nan,
    "unused dimensions of NaN": wide_vectors,
    "no columns but those used": columns(frame_index=None, episode_index=None, index=None),
    # metadata
    "CRLF and blank lines": both(
        edited("meta/tasks.jsonl", lambda content: content.replace(b"\n", b"\r\n") + b"\r\n \n"),
        edited("meta/episodes.jsonl", lambda content: content.replace(b"\n", b"\r\n") + b"\n\n"),
        edited("meta/info.json", lambda content: content.replace(b",", b",\r\n")),
    ),
    "byte order marks": both(
        *(edited(f"meta/{n}", lambda c: b"\xef\xbb\xbf" + c) for n in ("info.json", "episodes.jsonl"))
    ),
    "line separators of Unicode in a task": tasks("a\u2028b\u2029c\x85d"),
    "a task in a list of one": tasks([TASK]),
    "gaps in the numbering, and chunks": numbered_otherwise,
    "an episode of one row": both(one_row, document("info.json", lambda i: i.update(total_frames=FRAMES + 1))),
    "links instead of files": linked,
    "shapes as numbers and floats": both(feature("action", shape=6), feature("observation.state", shape=[6.0])),
    "no names of axes": both(*(feature(f"observation.images.{c}", names=None) for c in CAMERAS)),
    "axes in another order": both(
        *(feature(f"observation.images.{c}", shape=[3, 48, 64], names=["channels", "height", "width"]) for c in CAMERAS)
    ),
    "fps as a float, 30.0": document("info.json", lambda i: i.update(fps=30.0, chunks_size=1000.0)),
    "no fps but the cameras'": document("info.json", lambda i: i.update(fps=None)),
    "a version as a number": document("info.json", lambda i: i.update(codebase_version=2.1)),
    "entries nobody uses": both(
        document("modality.json", lambda m: m["state"].update(x={"start": 4, "end": 2}, y={"start": "0"}, z=None)),
        document("modality.json", lambda m: m["video"].update(side={"original_key": "observation.images.side"})),
        feature("observation.images.depth", dtype="video", shape="?", names=7),
        feature("gripper_force", dtype=None, shape="six"),
        statistics(x=1),
        document("stats.json", lambda s: s.update(gripper_force={"mean": [float("nan")]}, x=[1])),
    ),
    "statistics that lack quantiles": both(
        statistics(), document("stats.json", lambda s: [d.pop("q01") for d in s.values()] and None)
    ),
    "statistics of NaN in dimensions nobody uses": both(
        wide_vectors,
        statistics(),
        document("stats.json", lambda s: [d.update(mean=[*d["mean"][:7], float("nan")]) for d in s.values()] and None),
    ),
    "statistics of more than the column used": both(statistics(), document("stats.json", lambda s: s.update(extra={}))),
    # images
    "PNG images in the tables": images_in_tables("PNG"),
    "JPEG images in the tables": images_in_tables("JPEG"),
    "bare bytes of images": images_in_tables("PNG", bare=True),
    "images, and no clock": both(images_in_tables(), columns(timestamp=None)),
}

WARN: dict[str, tuple[Change, str]] = {
    "a table nobody lists": (extra_table, "lists 2 of 3 episodes: there are tables of episode 2"),
    "another count of episodes": (document("info.json", lambda i: i.update(total_episodes=9)), "total_episodes is 9"),
    "another count of frames": (document("info.json", lambda i: i.update(total_frames=9)), "total_frames is 9"),
    "another count of tasks": (document("info.json", lambda i: i.update(total_tasks=9)), "total_tasks is 9"),
    "an empty episode": (
        lines("episodes.jsonl", [{"episode_index": e, "length": n} for e, n in enumerate((FRAMES, FRAMES, 0))]),
        "episode 2 has length 0",
    ),
    "a task nobody knows": (
        lines("episodes.jsonl", [{"episode_index": e, "tasks": ["Fold"], "length": FRAMES} for e in range(EPISODES)]),
        "episode 0 has the task 'Fold'",
    ),
    "blank instructions": (tasks("  "), "the instruction is empty"),
    "a depth map as a colour camera": (
        camera_info("wrist", **{"video.is_depth_map": True}),
        "is marked as a depth map",
    ),
    "a grey camera": (feature("observation.images.front", shape=[48, 64, 1]), "has one channel"),
    "a dtype that is none": (
        document("modality.json", lambda m: m["action"]["gripper"].update(dtype=["float32"])),
        "dtype ['float32'] of action.gripper is no type of numbers",
    ),
    "another rate of the camera": (
        camera_info("front", **{"video.fps": 60.0}),
        "video.fps of 'observation.images.front' is 60",
    ),
    "tables under each other's name": (swapped, "its column episode_index says 1, its name 0"),
    "statistics of more data": (statistics(scale=1.5), "and only"),
    "a video to be shown turned": (films(film, turned=90), "turned by 90 degrees"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "dataset"


def checked(path: Path, **options: object) -> Checked:
    return check_dataset(path, CONFIG, options=DataOptions.model_validate(options))


@pytest.mark.parametrize("name", TRAIN)
def test_what_can_be_trained_on_is_with_the_right_frames(folder: Path, name: str) -> None:
    make(folder, TRAIN[name])
    found = checked(folder)
    assert not found.problems and not found.warnings, format_problems(found.problems + found.warnings)
    require_frames(folder)


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("jitter", [0, 1])
def test_a_faster_camera_is_looked_up_by_its_clock(folder: Path, factor: int, jitter: int) -> None:
    make(folder, slower_table(factor), seconds(ROWS / (FPS / factor) + jitter * JITTER))
    found = checked(folder)
    assert not found.problems and not found.warnings, format_problems(found.problems + found.warnings)
    require_frames(folder, step=factor)


def test_a_camera_of_half_the_rate_shows_each_frame_for_two_rows(folder: Path) -> None:
    make(folder, films(film, frames=FRAMES // 2, fps=FPS // 2))
    assert not checked(folder).problems
    assert frames_trained_on(folder)[1] == [[row // 2] * 2 for row in range(FRAMES)]


@pytest.mark.parametrize("name", WARN)
def test_what_is_probably_not_meant_is_a_warning(folder: Path, name: str) -> None:
    change, says = WARN[name]
    make(folder, change)
    found = checked(folder)
    assert not found.problems, format_problems(found.problems)
    assert len(found.warnings) >= 1 and says in found.warnings[0].message, format_problems(found.warnings)
    assert all(warning.fix for warning in found.warnings)
    require_frames(folder)
