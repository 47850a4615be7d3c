"""LeRobot v3 read in place gives what its conversion to v2.1 gives: samples, frames, statistics, each of them."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.support.lerobot_v3 import concatenate, to_v3
from tests.support.so101 import FPS, FRAMES
from tests.support.so101_cases import CAMERAS, CONFIG, camera_info, film, films, images_in_tables, make, slower_table
from tests.trainer.data.test_v3_cases import index
from trainer.data.checks import check_dataset
from trainer.data.convert_v3 import convert_to_v21
from trainer.data.dataset import TrainingDataset
from trainer.data.dataset_meta import DatasetMeta
from trainer.data.reader import DatasetReader
from trainer.data.statistics import load_statistics
from trainer.data.synthetic import make_synthetic

GR1 = "fourier_gr1_arms_only"


def so101(*changes: Callable[[Path], object], per_file: int = 2) -> Callable[[Path], Path]:
    return lambda folder: to_v3(make(folder / "v2", *changes), folder / "v3", per_file=per_file)


def one_encoding(folder: Path) -> Path:
    """Both episodes in one video that was encoded as a whole: the second begins within a group of pictures."""
    path = so101()(folder)
    options = {"g": "9", "bf": "2", "x264-params": "open-gop=1"}
    for camera in CAMERAS:
        file = path / f"videos/observation.images.{camera}/chunk-000/file-000.mp4"
        concatenate([film(folder / "one.mp4", frames=2 * FRAMES, options=options)], file)
        index(path, **{f"videos__observation.images.{camera}__from_timestamp": [0.0, FRAMES / FPS]})
    return path


def stale(folder: Path) -> Path:
    path = so101(per_file=1)(folder)
    index(path, data__file_index=[1, 0])
    return path


def scattered(folder: Path) -> Path:
    """The rows of both episodes in turns."""
    path = so101()(folder)
    file = path / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    pq.write_table(table.take(np.argsort(np.tile(np.arange(FRAMES), 2), kind="stable")), file)
    return path


RECORDINGS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "many in a file, key frames far apart": (so101(films(film, options={"g": "250", "bf": "3"})), CONFIG),
    "encoded as a whole": (one_encoding, CONFIG),
    "a stale index": (stale, CONFIG),
    "scattered rows": (scattered, CONFIG),
    "images in the tables": (so101(images_in_tables()), CONFIG),
    "faster cameras": (so101(slower_table(2), *(camera_info(c, **{"video.fps": 30.0}) for c in CAMERAS)), CONFIG),
    "another robot": (lambda folder: to_v3(make_synthetic(folder / "v2", episodes=3), folder / "v3"), GR1),
}  # fmt: skip


@pytest.mark.parametrize("name", RECORDINGS)
def test_the_same_samples_frames_and_statistics_as_through_the_conversion(tmp_path, name):
    record, config = RECORDINGS[name]
    path = record(tmp_path)
    converted = convert_to_v21(path, tmp_path / "v21")
    checks = [check_dataset(folder, config) for folder in (path, converted)]
    assert [each.problems + each.warnings for each in checks] == [[], []]
    assert checks[0].statistics == checks[1].statistics
    ours, theirs = (TrainingDataset([folder], config, "new_embodiment") for folder in (path, converted))
    cached = TrainingDataset([path], config, "new_embodiment", cache_dir=tmp_path / "cache")
    cached.prepare()
    assert len(ours) == len(theirs) > 0
    assert ours.metadata == theirs.metadata
    assert ours.trained_on == theirs.trained_on  # the hashes that a holdout goes by
    expected = theirs.__getitems__(range(len(theirs)))
    for dataset in (ours, cached, pickle.loads(pickle.dumps(cached))):
        batch = dataset.__getitems__(range(len(dataset)))
        np.testing.assert_array_equal(batch.frames, expected.frames)
        np.testing.assert_array_equal(batch.jitter, expected.jitter)
        assert batch.texts == expected.texts
        for key, values in expected.vectors.items():
            np.testing.assert_array_equal(batch.vectors[key], values)


def test_an_evaluation_reads_the_same_steps(tmp_path):
    path = so101()(tmp_path)
    converted = convert_to_v21(path, tmp_path / "v21")
    config = TrainingDataset([path], CONFIG, "new_embodiment").config
    ours, theirs = DatasetReader(path, config), DatasetReader(converted, config)
    for episode in ours.trajectory_ids:
        for row in (0, 5, FRAMES - 1):
            step, expected = ours.get_step_data(episode, row), theirs.get_step_data(episode, row)
            assert step.keys() == expected.keys()
            for key, value in expected.items():
                np.testing.assert_array_equal(step[key], value)


def test_an_episode_held_out_is_the_same_one(tmp_path):
    path = so101()(tmp_path)
    converted = convert_to_v21(path, tmp_path / "v21")
    ours, theirs = (TrainingDataset([f], CONFIG, "new_embodiment", holdout="0.5") for f in (path, converted))
    assert ours.held_out[0] and ours.held_out == theirs.held_out
    assert ours.metadata.statistics == theirs.metadata.statistics


def test_statistics_of_v3_are_computed_from_the_rows(tmp_path):
    """LeRobot's own quantiles are means of the episodes' ones."""
    path = so101()(tmp_path)
    wrong = {"action": {name: [0.5] * 6 for name in ("min", "max", "mean", "std", "q01", "q99")}}
    (path / "meta/stats.json").write_text(str(wrong).replace("'", '"'))
    found = load_statistics(DatasetMeta.load(path))["action"]
    assert found == load_statistics(DatasetMeta.load(tmp_path / "v2"))["action"] and found.min != found.max


def test_clips_share_the_cache_of_a_copy_and_change_with_their_video(tmp_path):
    path = so101()(tmp_path)
    Path(shutil.copytree(path, tmp_path / "copy"))
    for folder in (path, tmp_path / "copy"):
        TrainingDataset([folder], CONFIG, "new_embodiment", cache_dir=tmp_path / "cache").prepare()
        # The cameras' videos are the same bytes here: an entry for each episode.
        assert len([each for each in (tmp_path / "cache").iterdir() if each.is_dir()]) == 2


def test_images_of_many_episodes_are_read_once(tmp_path, monkeypatch):
    """pandas writes one row group for all: it would be read again for every episode."""
    path = so101(images_in_tables())(tmp_path)
    file = path / "data/chunk-000/file-000.parquet"
    assert pq.ParquetFile(file).num_row_groups == 1
    read, groups = [], pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda *a, **k: read.append(k["columns"]) or groups(*a, **k))
    assert check_dataset(path, CONFIG).problems == []
    TrainingDataset([path], CONFIG, "new_embodiment", cache_dir=tmp_path / "cache").prepare()
    assert sorted(each[0] for each in read) == sorted(2 * [f"observation.images.{camera}" for camera in CAMERAS])
