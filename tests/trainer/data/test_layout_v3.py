from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.lerobot_v3 import to_v3, write_table
from trainer.data.checks import check_dataset
from trainer.data.convert_v3 import convert_to_v21
from trainer.data.info import InfoV3
from trainer.data.layout_v3 import is_v3, load_episodes_v3, load_tasks_v3
from trainer.data.synthetic import make_synthetic
from trainer.data.video import decode_video
from trainer.errors import DatasetError


@pytest.fixture(scope="module")
def v2(tmp_path_factory) -> Path:
    return make_synthetic(tmp_path_factory.mktemp("v2") / "data", episodes=3)


@pytest.fixture(scope="module")
def v3(v2) -> Path:
    return to_v3(v2, v2.parent / "v3")


def video(path: Path) -> np.ndarray:
    return np.stack([frame for _, frame in decode_video(path)])


def test_it_comes_back_as_it_was(v2, v3, tmp_path):
    assert is_v3(v2) is None and is_v3(v3) == "v3.0"
    back = convert_to_v21(v3, tmp_path / "back")
    tables = sorted(path.relative_to(v2) for path in v2.rglob("*.parquet"))
    assert len(tables) == 3
    for path in tables:
        assert pq.read_table(back / path).equals(pq.read_table(v2 / path))
    for path in sorted(path.relative_to(v2) for path in v2.rglob("*.mp4")):
        np.testing.assert_array_equal(video(back / path), video(v2 / path))
    for name in ("episodes.jsonl", "tasks.jsonl"):
        assert (back / "meta" / name).read_text() == (v2 / "meta" / name).read_text()
    info = json.loads((back / "meta/info.json").read_text())
    before = json.loads((v2 / "meta/info.json").read_text())
    assert info == {**before, "codebase_version": "v2.1"}
    # Aggregated statistics are not those of the data: they are computed again.
    assert not (back / "meta/stats.json").exists()
    assert check_dataset(back, "fourier_gr1_arms_only").problems == []


@pytest.mark.slow
def test_the_real_demo_dataset_comes_back_too(demo_dataset, tmp_path):
    back = convert_to_v21(to_v3(demo_dataset, tmp_path / "v3", per_file=5), tmp_path / "back")
    path = "videos/chunk-000/observation.images.ego_view/episode_000003.mp4"
    np.testing.assert_array_equal(video(back / path), video(demo_dataset / path))
    assert check_dataset(back, "fourier_gr1_arms_only").problems == []


def edited(v3: Path, target: Path, file: str, change) -> Path:
    shutil.copytree(v3, target)
    table = change(pq.read_table(target / file))
    write_table(target / file, table)
    return target


EPISODES = "meta/episodes/chunk-000/file-000.parquet"


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        (EPISODES, lambda t: pa.concat_tables([t, t.slice(0, 1)]), "episode_index 0 occurs twice"),
        (EPISODES, lambda t: t.set_column(0, "episode_index", pa.array([0, 1, 7])), "0 rows of episode 7"),
        ("data/chunk-000/file-000.parquet", lambda t: t.slice(0, 20), "20 rows of episode 0; meta/episodes says"),
        ("data/chunk-000/file-000.parquet", lambda t: t.drop_columns(["episode_index"]), "no column episode_index"),
        ("meta/tasks.parquet", lambda t: t.select(["task_index"]), "a row without task"),
    ],
)
def test_what_contradicts_itself_is_refused(v3, tmp_path, file, change, says):
    with pytest.raises(DatasetError) as error:
        convert_to_v21(edited(v3, tmp_path / "v3", file, change), tmp_path / "back")
    assert says in error.value.message and error.value.hint


@pytest.mark.parametrize(
    "path",
    ["meta/tasks.parquet", "data/chunk-000/file-001.parquet", "meta/episodes/chunk-000", "videos", "meta/info.json"],
)
def test_what_is_missing_is_named(v3, tmp_path, path):
    shutil.copytree(v3, tmp_path / "v3")
    gone = tmp_path / "v3" / path
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    with pytest.raises(DatasetError) as error:
        convert_to_v21(tmp_path / "v3", tmp_path / "back")
    assert str(Path(path).parent) in error.value.message


def test_a_video_that_ends_early_is_refused(v3, tmp_path):
    def later(table: pa.Table) -> pa.Table:
        name = "videos/observation.images.ego_view/from_timestamp"
        return table.set_column(table.schema.get_field_index(name), name, pa.array([0.0, 5.0, 0.0]))

    with pytest.raises(DatasetError, match=r"no \d+ frames from 5.000 s"):
        convert_to_v21(edited(v3, tmp_path / "v3", EPISODES, later), tmp_path / "back")


@pytest.mark.parametrize("template", ["/etc/{file_index}", "../{file_index}", "{episode_index}", "{0}"])
def test_paths_stay_inside(v3, tmp_path, template):
    shutil.copytree(v3, tmp_path / "v3")
    info = json.loads((v3 / "meta/info.json").read_text()) | {"data_path": template}
    (tmp_path / "v3/meta/info.json").write_text(json.dumps(info))
    with pytest.raises(DatasetError, match="data_path"):
        convert_to_v21(tmp_path / "v3", tmp_path / "back")


VALUES = st.one_of(
    st.none(), st.integers(-5, 5), st.floats(), st.text(max_size=3), st.lists(st.text(max_size=3), max_size=2)
)
COLUMNS = [
    "episode_index", "length", "tasks", "task", "task_index", "data/chunk_index", "data/file_index",
    "__index_level_0__", "videos/cam/chunk_index", "videos/cam/file_index", "videos/cam/from_timestamp",
    "stats/action/mean",
]  # fmt: skip


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(COLUMNS), VALUES), st.booleans())
def test_any_table_is_read_or_refused(tmp_path, row, complete):
    """Metadata of others never ends in anything but rows or a ``DatasetError``."""
    if complete:
        row = {**dict.fromkeys(COLUMNS, 1), "tasks": ["a"], "task": "b", **row}
    table = pa.Table.from_pylist([row]) if row else pa.table({"x": [1]})
    write_table(tmp_path / EPISODES, table)
    write_table(tmp_path / "meta/tasks.parquet", table)
    info = InfoV3(codebase_version="v3.0", fps=30, features={"cam": {"dtype": "video"}})
    with contextlib.suppress(DatasetError):
        (episode,) = load_episodes_v3(tmp_path, info)
        assert episode.episode_index >= 0 and episode.length >= 0
    with contextlib.suppress(DatasetError):
        assert all(isinstance(task, str) for task in load_tasks_v3(tmp_path).values())
