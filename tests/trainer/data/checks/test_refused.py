"""Datasets as people have them that would train wrongly: refused, with what is wrong, where, and the cure."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.support.frames_seen import require_frames
from tests.support.so101 import FPS, FRAMES, TASK
from tests.support.so101_cases import (
    CONFIG,
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
    listed,
    make,
    mp4,
    one_row,
    recast,
    slower_table,
    statistics,
    text,
)
from trainer.config.data_options import DataOptions
from trainer.data.checks import Checked, check_dataset, format_problems

TASKS = [{"task_index": 0, "task": TASK}]


def renamed_camera(path: Path) -> None:
    document("modality.json", lambda m: m["video"]["front"].update(original_key="action"))(path)


def of_other_width(path: Path) -> None:
    """The second episode was recorded with a joint more, and info.json says nothing of widths."""
    recast(lambda rows: pa.array([[*row, 0.0] for row in rows]), which=[1])(path)
    for name in ("action", "observation.state"):
        feature(name, shape=None)(path)


REFUSE: dict[str, tuple[Change, str, str]] = {
    # a row's time
    "seconds since 1970": (columns(timestamp=1.764e9 + ROWS / FPS), "wall clock", "--video-alignment index"),
    "times of day": (
        columns(timestamp=pa.array([1_764_000_000_000 + int(1e3 * k / FPS) for k in ROWS], pa.timestamp("ms"))),
        "wall clock",
        "row / fps",
    ),
    "seconds since the machine started": (
        columns(timestamp=5234.5 + ROWS / FPS),
        "row 0 of episode 0 is at 5234.500 s",
        "row / fps",
    ),
    "a clock that runs on": (
        columns(timestamp=lambda e: (ROWS + e * FRAMES) / FPS),
        r"row 0 of episode 1 is at 0.400 s, but frame 0 .* is at 0.000 s: timestamps run on",
        "--video-alignment index",
    ),
    "milliseconds": (columns(timestamp=1000 * ROWS / FPS), "timestamps in milliseconds", "row / fps"),
    "nanoseconds": (columns(timestamp=(1e9 * ROWS / FPS).astype(np.int64)), "timestamps in nanoseconds", "row / fps"),
    "before 0": (columns(timestamp=ROWS / FPS - 2), "timestamps begin before 0", "row / fps"),
    "descending": (columns(timestamp=ROWS[::-1] / FPS), r"don't increase .* in row 1", "index / fps"),
    "a row twice": (columns(timestamp=np.insert(ROWS[:-1], 4, 4) / FPS), r"don't increase .* row 5", "index / fps"),
    "a time that is none": (columns(timestamp=[0.0, None, *(ROWS[2:] / FPS)]), "none in row 1", "index / fps"),
    "times as text": (columns(timestamp=[str(k) for k in ROWS]), "holds no numbers", "seconds"),
    "no times": (columns(timestamp=None), "no column 'timestamp'", "--video-alignment index"),
    "a video that begins a frame late": (films(film, first=1), "the video begins only at 0.033 s", "setpts"),
    "a video without its end": (
        films(film, frames=FRAMES - 1, which=[1]),
        r"episode_000001.mp4: 11 frames; meta/episodes.jsonl says 12",
        "every step",
    ),
    "a frame that was dropped": (
        films(film, pts=[k for k in range(FRAMES) if k != 5], frames=FRAMES - 1),
        "row 5",
        "re-encode",
    ),
    "a pause in the video": (
        films(film, pts=[k + (k > 5) * 9 for k in range(FRAMES)]),
        r"row 6 .* the video's frame rate varies, or frames were dropped",
        "re-encode",
    ),
    "a camera that is three times slower": (
        films(film, frames=4, fps=10),
        "the video has 4 frames for 12 rows",
        "fps=FPS",
    ),
    # tables
    "one level too deep": (recast(lambda rows: pa.array([[row] for row in rows])), "one level too deep", "flat list"),
    "a row that is missing": (recast(lambda rows: pa.array([None, *rows[1:]])), "is empty in row 0", "all dimensions"),
    "rows of other lengths": (
        recast(lambda rows: pa.array([*rows[:-1], rows[-1][:2]])),
        "6 in row 0, 2 in row 11",
        "all dimensions",
    ),
    "infinity": (
        recast(lambda rows: pa.array([[float("inf"), *row[1:]] if k == 3 else row for k, row in enumerate(rows)])),
        "first in row 3 of state.single_arm",
        "Remove the episode",
    ),
    "a null among numbers": (
        recast(lambda rows: pa.array([[None, *row[1:]] if k == 4 else row for k, row in enumerate(rows)])),
        "first in row 4 of state.single_arm",
        "Remove the episode",
    ),
    "numbers as text": (
        recast(lambda rows: pa.array([[str(v) for v in row] for row in rows])),
        "holds text",
        "original_key",
    ),
    "a structure": (recast(lambda rows: pa.array([{"x": row[0]} for row in rows])), "not numbers", "original_key"),
    "one robot and another": (of_other_width, "has 7 dimensions, 6 in the first episode", "one robot"),
    "fewer dimensions than announced": (
        recast(lambda rows: pa.array([row[:5] for row in rows])),
        "has 5 dimensions; meta/info.json says 6",
        "shape",
    ),
    "an instruction with gaps": (instructed(["fold", None] * 6), "'language', .* is empty in row 1", "every row"),
    "two instructions a row": (instructed([["a", "b"]] * FRAMES), "more than one value a row", "original_key"),
    "a task that is no number": (columns(task_index=np.full(FRAMES, 0.5)), "holds 0.5", "original_key"),
    "an unknown task": (columns(task_index=np.full(FRAMES, 7)), "names task 7", "tasks.jsonl"),
    # metadata
    "no tasks.jsonl": (lambda path: (path / "meta/tasks.jsonl").unlink(), r"tasks\.jsonl: missing", "Download"),
    "fps as text": (
        document("info.json", lambda i: i.update(fps="30")),
        r"info\.json: fps: '30' is not a number",
        "Correct",
    ),
    "fps that is true": (document("info.json", lambda i: i.update(fps=True)), "fps: True is not a number", "Correct"),
    "fps that is NaN": (
        document("info.json", lambda i: i.update(fps=float("nan"))),
        "fps: nan is not a number",
        "Correct",
    ),
    "a camera's fps as text": (
        camera_info("front", **{"video.fps": "30"}),
        "video.fps: '30' is not a number",
        "video.fps",
    ),
    "a shape as text": (
        feature("action", shape="6"),
        r"features\.action\.shape\.0: '6' is not a number",
        "whole numbers",
    ),
    "a camera's shape as text": (
        feature("observation.images.front", shape=["48", "64", "3"]),
        "'48' is not a number",
        "shape",
    ),
    "chunks of half an episode": (
        document("info.json", lambda i: i.update(chunks_size=0.5)),
        "chunks_size: 0.5",
        "Correct",
    ),
    "a slice as text": (
        document("modality.json", lambda m: m["state"]["gripper"].update(start="5")),
        "state.gripper: start: '5'",
        "Correct",
    ),
    "a length as text": (
        edited("meta/episodes.jsonl", lambda c: c.replace(b"12}", b'"12"}')),
        "line 1: length: '12'",
        "Correct",
    ),
    "a negative length": (listed(FRAMES, -1), "line 2: length", "Correct"),
    "another length": (listed(FRAMES, FRAMES - 1), "12 rows; meta/episodes.jsonl says 11", "Correct the length"),
    "all episodes empty": (listed(0, 0), "no episodes", "Record"),
    "tasks in a list": (text("meta/tasks.jsonl", json.dumps(TASKS)), r"tasks\.jsonl, line 1", "Correct that line"),
    "tasks in a dictionary": (
        text("meta/tasks.jsonl", json.dumps({"0": "Grab"})),
        r"line 1: task_index: missing",
        "Correct that line",
    ),
    "a task that is a dictionary": (
        lines("tasks.jsonl", [{"task_index": 0, "task": {"en": "Grab"}}]),
        "line 1: task",
        "Correct",
    ),
    "a task twice": (
        lines("tasks.jsonl", [*TASKS, {"task_index": 0, "task": "Fold"}]),
        "task_index 0 occurs twice",
        "one line",
    ),
    "another encoding": (text("meta/tasks.jsonl", TASK.encode("utf-16")), "not UTF-8", "UTF-8"),
    "metadata without an end": (text("meta/info.json", "[" * 100_000), "nested too deeply", "Correct"),
    "a number without an end": (
        edited("meta/info.json", lambda c: c.replace(b"1000", b"1" * 5000)),
        "not JSON",
        "Correct",
    ),
    "a camera that is none": (renamed_camera, "is no camera", "original_key of video.front"),
    "images that are not there": (
        both(images_in_tables(), columns(observation__images__front=pa.array([None] * FRAMES, pa.binary()))),
        "no image in row 0",
        "Record it again",
    ),
    "images of another kind": (
        both(images_in_tables(), columns(observation__images__front=[b"GIF89a"] * FRAMES)),
        "neither PNG nor JPEG",
        "Record it again",
    ),
    "statistics of other data": (
        statistics(scale=0.1),
        "older than the data, or of other data",
        "--recompute-statistics",
    ),
    "statistics of NaN": (
        statistics(mean=[float("nan")] * 6),
        "NaN or infinite values in mean",
        "--recompute-statistics",
    ),
    "statistics of other dimensions": (
        statistics(q01=[-1.0] * 4),
        "q01 of .* has 4 dimensions of 6",
        "--recompute-statistics",
    ),
    "statistics of text": (statistics(std=["1"] * 6), "no number", "--recompute-statistics"),
    "statistics no data can have": (
        statistics(q01=[2.0] * 6),
        "contradict one another in dimension 0",
        "--recompute-statistics",
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "dataset"


def checked(path: Path, **options: object) -> Checked:
    return check_dataset(path, CONFIG, options=DataOptions.model_validate(options))


@pytest.mark.parametrize("name", REFUSE)
def test_what_would_train_wrongly_is_refused_with_its_cure(folder: Path, name: str) -> None:
    change, says, cure = REFUSE[name]
    make(folder, change)
    found = checked(folder).problems
    assert found and re.search(says, found[0].message), format_problems(found)
    assert re.search(cure, found[0].fix), found[0]
    assert str(folder) in found[0].message and "\n" not in found[0].message


CLOCKS = [name for name in REFUSE if "--video-alignment index" in REFUSE[name][2]]


@pytest.mark.parametrize("name", [*CLOCKS, "a video that begins a frame late", "a pause in the video", "milliseconds"])
def test_what_only_the_clock_contradicts_can_be_aligned_by_index(folder: Path, name: str) -> None:
    make(folder, REFUSE[name][0])
    found = checked(folder, video_alignment="index")
    assert not found.problems, format_problems(found.problems)
    require_frames(folder, video_alignment="index")


def test_index_needs_as_many_frames_as_rows_and_else_goes_by_the_clock(folder: Path) -> None:
    make(folder, slower_table(2))
    require_frames(folder, step=2, video_alignment="index")
    films(film, frames=FRAMES - 1)(folder)
    assert "11 frames" in checked(folder, video_alignment="index").problems[0].message
    columns(timestamp=None)(folder)
    assert (
        "11 frames for 12 rows, which have no timestamp" in checked(folder, video_alignment="index").problems[0].message
    )


@pytest.mark.parametrize("name", [name for name in REFUSE if "--recompute-statistics" in REFUSE[name][2]])
def test_statistics_can_be_computed_from_the_data_instead(folder: Path, name: str) -> None:
    make(folder, REFUSE[name][0])
    found = checked(folder, recompute_statistics=True)
    assert not found.problems and not found.warnings
    make(folder.with_name("good"), statistics())
    good = checked(folder.with_name("good")).statistics
    for column, described in found.statistics.items():
        np.testing.assert_allclose(described.std, good[column].std, rtol=1e-6)


def test_all_is_told_in_one_go(folder: Path) -> None:
    changes = ("fps as text", "a slice as text", "a task twice")
    make(folder, *(REFUSE[name][0] for name in changes))
    assert len(checked(folder).problems) >= 2
    again = folder.with_name("again")
    make(again, films(film, first=9, which=[0]), statistics(scale=0.1), columns(task_index=np.full(FRAMES, 7)))
    text = format_problems(checked(again).problems)
    assert "begins only" in text and "names task 7" in text


def test_a_video_of_another_episode_is_seen_by_its_length(folder: Path) -> None:
    make(folder, one_row)
    shutil.copy(mp4(folder, 1, "front"), mp4(folder, 0, "front"))
    assert not checked(folder).problems
    film(mp4(folder, 0, "front"), frames=1)
    assert "1 frames; meta/episodes.jsonl says 12" in checked(folder).problems[0].message
