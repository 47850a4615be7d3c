"""Recordings in LeRobot's v3 layout as people have them: converted with the right frames, or refused with the cure."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.frames_seen import frames_trained_on, require_frames
from tests.support.lerobot_v3 import concatenate, to_v3
from tests.support.so101 import FPS, FRAMES
from tests.support.so101_cases import (
    CAMERAS,
    CONFIG,
    Change,
    camera_info,
    columns,
    film,
    films,
    images_in_tables,
    make,
    one_row,
    slower_table,
    tasks,
)
from trainer.data.dataset_meta import DatasetMeta
from trainer.errors import DatasetError
from trainer.importers.normalize_dataset import normalized

EPISODES = "meta/episodes/chunk-000/file-000.parquet"


def v3(path: Path, *changes: Change, per_file: int = 2) -> Path:
    """A recording in v3 of what ``changes`` make of a good dataset in v2."""
    return to_v3(make(path.with_name("v2"), *changes), path, per_file=per_file)


def index(path: Path, **values: list | None) -> None:
    """Replace columns of ``meta/episodes`` (``__`` is a slash), or remove them."""
    table = pq.read_table(path / EPISODES)
    for key, value in values.items():
        name = key.replace("__", "/")
        table = table.drop_columns([name]) if name in table.column_names else table
        table = table if value is None else table.append_column(name, pa.array(value))
    pq.write_table(table, path / EPISODES)


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """What training reads of a recording, as a context."""
    monkeypatch.setenv("PIPPA_HOME", str(tmp_path / "home"))

    @contextmanager
    def reading(path: Path) -> Generator[Path]:
        warnings: list[object] = []
        with normalized(path, CONFIG, "table", tmp_path / "work", warn=warnings.append) as (ready, _):
            assert not warnings
            yield ready

    return reading


def test_a_recording_in_v3(imported, tmp_path):
    with imported(v3(tmp_path / "v3")) as ready:
        require_frames(ready)


@pytest.mark.parametrize("numbers", [[1, 0], [0, 0], [7, 7], None])
def test_rows_are_found_by_their_episode_whatever_the_index_says(imported, tmp_path, numbers):
    path = v3(tmp_path / "v3", per_file=1)
    index(path, data__file_index=numbers, data__chunk_index=numbers and [0, 0])
    with imported(path) as ready:
        require_frames(ready)
        actions = [pq.read_table(DatasetMeta.load(folder).parquet_path(1)) for folder in (ready, path.with_name("v2"))]
        assert actions[0].equals(actions[1])


def test_an_unreadable_file_does_not_hide_the_others(imported, tmp_path):
    path = v3(tmp_path / "v3", per_file=1)
    index(path, data__file_index=None, data__chunk_index=None)
    (path / "data/chunk-000/file-007.parquet").write_bytes(b"PAR1")
    with imported(path) as ready:
        require_frames(ready)


def test_line_separators_of_unicode_in_a_task(imported, tmp_path):
    with imported(v3(tmp_path / "v3", tasks("Pick up\u2028the pen \x85."))) as ready:
        assert DatasetMeta.load(ready).tasks == {0: "Pick up\u2028the pen \x85."}
        require_frames(ready)


def test_cameras_as_images_in_the_tables(imported, tmp_path):
    with imported(v3(tmp_path / "v3", images_in_tables())) as ready:
        assert not (ready / "videos").exists()
        require_frames(ready)


def test_a_clip_beyond_the_end_of_its_file(imported, tmp_path):
    path = v3(tmp_path / "v3")
    index(path, **{"videos__observation.images.front__from_timestamp": [0.0, 600.0]})
    with pytest.raises(DatasetError, match=r"no 12 frames from 600.000 s") as refused, imported(path):
        pass
    assert refused.value.hint


def test_clips_that_share_a_frame_are_cut_exactly(imported, tmp_path):
    """The last frame of the first clip is the first of the second: each row keeps its own."""
    path = v3(tmp_path / "v3", films(film, options={"g": "1"}))
    for camera in CAMERAS:
        file = path / f"videos/observation.images.{camera}/chunk-000/file-000.mp4"
        concatenate([film(tmp_path / "one.mp4", frames=2 * FRAMES, options={"g": "1"})], file)
        index(path, **{f"videos__observation.images.{camera}__from_timestamp": [0.0, (FRAMES - 1) / FPS]})
    with imported(path) as ready:
        episodes = frames_trained_on(ready)
        assert episodes == [[[first + row] * 2 for row in range(FRAMES)] for first in (0, FRAMES - 1)]


def test_a_faster_camera_keeps_its_clock(imported, tmp_path):
    with imported(
        v3(tmp_path / "v3", slower_table(2), *(camera_info(c, **{"video.fps": 30.0}) for c in CAMERAS))
    ) as ready:
        require_frames(ready, step=2)


def test_an_episode_of_one_row(imported, tmp_path):
    def shorter(path: Path) -> None:
        one_row(path)
        films(film, which=[1], frames=1)(path)
        info = json.loads((path / "meta/info.json").read_text()) | {"total_frames": FRAMES + 1}
        (path / "meta/info.json").write_text(json.dumps(info))

    with imported(v3(tmp_path / "v3", shorter)) as ready:
        assert [len(episode) for episode in frames_trained_on(ready)] == [FRAMES, 1]
        require_frames(ready)


def test_a_camera_nobody_uses_can_not_stop_it(imported, tmp_path):
    path = v3(tmp_path / "v3")
    info = json.loads((path / "meta/info.json").read_text())
    info["features"]["observation.images.depth"] = info["features"]["observation.images.front"]
    (path / "meta/info.json").write_text(json.dumps(info))
    places = {f"videos__observation.images.depth__{name}": [0, 0] for name in ("chunk_index", "file_index")}
    index(path, **places, **{"videos__observation.images.depth__from_timestamp": [0.0, 0.4]})
    with imported(path) as ready:
        require_frames(ready)
    with pytest.raises(DatasetError, match=r"depth.*missing"), normalized(path, None, "table", tmp_path / "work"):
        pass  # for any data config, all that was recorded has to be there


def test_a_wrong_clock(imported, tmp_path):
    path = v3(tmp_path / "v3", columns(timestamp=1.7e9 + np.arange(FRAMES) / FPS))
    says = r"table: data/chunk-000/file-000.parquet: row 0 of episode 0 .*file-000.mp4, episode 0 is .* wall clock"
    with pytest.raises(DatasetError, match=says), imported(path):
        pass


def without(file: str) -> Change:
    return lambda path: (path / file).unlink()


def fewer_rows(path: Path) -> None:
    file = path / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(file).slice(1), file)


def moved_back(frames: int) -> Change:
    """The second episode's clips begin so many frames before the end of the first one's."""
    starts = [0.0, (FRAMES - frames) / FPS]
    return lambda path: index(path, **{f"videos__observation.images.{c}__from_timestamp": starts for c in CAMERAS})


def not_a_number(path: Path) -> None:
    file = path / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    values = table.column("action").to_pylist()
    values[FRAMES + 3][2] = float("nan")
    pq.write_table(table.set_column(table.column_names.index("action"), "action", pa.array(values)), file)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without("data/chunk-000/file-000.parquet"), r"data/chunk-000/file-000\.parquet: missing"),
        (without("videos/observation.images.wrist/chunk-000/file-000.mp4"), r"images\.wrist/.*file-000\.mp4: missing"),
        (without(EPISODES), r"meta/episodes: no parquet files"),
        (without("meta/tasks.parquet"), r"meta/tasks\.parquet: missing"),
        (fewer_rows, r"file-000\.parquet: 11 rows of episode 0; meta/episodes says 12"),
        (moved_back(3), r"file-000\.mp4: .* episodes 0 and 1 the same frames, 9 to 11"),
        (moved_back(FRAMES), r"file-000\.mp4: .* episodes 0 and 1 the same frames, 0 to 11"),
        (not_a_number, r"file-000\.parquet, episode 1: NaN .* 'action', first in row 3 of action\.single_arm"),
        (lambda path: index(path, length=[FRAMES, FRAMES + 1]), r"12 rows of episode 1; meta/episodes says 13"),
        (lambda path: index(path, length=None), r"no column 'length'"),
    ],
)  # fmt: skip
def test_what_is_broken_is_refused_by_file_and_with_a_cure(imported, tmp_path, change, says):
    path = v3(tmp_path / "v3")
    change(path)
    with pytest.raises(DatasetError, match=says) as refused, imported(path):
        pass
    assert "pippa data check" in refused.value.hint and len(refused.value.message.splitlines()) > 2, refused.value
