from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.lerobot_v3 import to_v3
from tests.support.so101 import make_so101
from trainer import importers
from trainer.data.configs import DATA_CONFIGS
from trainer.data.known_robots import MODALITIES
from trainer.errors import DatasetError
from trainer.importers.normalize_dataset import normalized
from trainer.store import snapshots


@pytest.fixture(scope="module")
def so101(tmp_path_factory) -> Path:
    return make_so101(tmp_path_factory.mktemp("so101") / "table")


@pytest.mark.parametrize("name", MODALITIES)
def test_each_modality_has_all_that_its_data_config_needs(name):
    assert DATA_CONFIGS[name].missing(MODALITIES[name]) == {}


@pytest.mark.parametrize("data_config", ["so100_dualcam", None])
def test_the_modality_of_an_so101_is_added_and_the_folder_left_alone(object_store, so101, tmp_path, data_config):
    ref = importers.dataset(object_store, str(so101), tmp_path / "work", data_config=data_config)
    (info,) = snapshots.list_snapshots(object_store, "dataset")
    assert info.origin == {"folder": str(so101), "modality": "added"}
    assert not (so101 / "meta/modality.json").exists() and not list((tmp_path / "work").iterdir())
    pulled = snapshots.pull(object_store, ref, tmp_path / "pulled")
    assert json.loads((pulled / "meta/modality.json").read_text()) == {
        "state": {"single_arm": {"start": 0, "end": 5}, "gripper": {"start": 5, "end": 6}},
        "action": {"single_arm": {"start": 0, "end": 5}, "gripper": {"start": 5, "end": 6}},
        "video": {
            "front": {"original_key": "observation.images.front"},
            "wrist": {"original_key": "observation.images.wrist"},
        },
        "annotation": {"human.task_description": {"original_key": "task_index"}},
    }


def test_one_camera(tmp_path):
    folder = make_so101(tmp_path / "one", cameras=("webcam",), episodes=1)
    with normalized(folder, "so100", "one", tmp_path / "work") as (ready, changed):
        assert changed == {"modality": "added"} and '"webcam"' in (ready / "meta/modality.json").read_text()


@pytest.mark.parametrize(
    ("cameras", "joints", "says"),
    [
        (("front",), 6, r"expects the cameras observation\.images\.front, observation\.images\.wrist; there are obs"),
        (("front", "wrist"), 5, "expects 6 dimensions in action; there are 5"),
        ((), 4, "there are none"),
    ],
)
def test_another_robot_is_refused_with_every_difference(tmp_path, cameras, joints, says):
    folder = make_so101(tmp_path / "other", cameras=cameras, joints=joints, episodes=1)
    with (
        pytest.raises(DatasetError, match=says) as error,
        normalized(folder, "so100_dualcam", "other", tmp_path / "work"),
    ):
        pass
    assert "docs/data.md" in error.value.hint
    # Without a data config nobody said which robot it is.
    with normalized(folder, None, "other", tmp_path / "work") as (ready, changed):
        assert ready == folder and changed == {}


def test_a_v3_recording_stays_as_it_is_and_gets_its_modality(object_store, so101, tmp_path):
    recording = to_v3(so101, tmp_path / "recording")
    ref = importers.dataset(object_store, str(recording), tmp_path / "work", data_config="so100_dualcam")
    (info,) = snapshots.list_snapshots(object_store, "dataset")
    assert info.origin == {"folder": str(recording), "modality": "added"}
    pulled = snapshots.pull(object_store, ref, tmp_path / "pulled")
    for file in recording.rglob("*.*"):
        assert not file.is_file() or (pulled / file.relative_to(recording)).read_bytes() == file.read_bytes()


def test_problems_name_the_dataset_not_a_temporary_folder(so101, tmp_path):
    recording = to_v3(so101, tmp_path / "recording")
    (recording / "meta/modality.json").write_text("{")
    with (
        pytest.raises(DatasetError, match=r"my-table: meta/modality\.json") as error,
        normalized(recording, "so100_dualcam", "my-table", tmp_path / "work"),
    ):
        pass
    assert str(tmp_path) not in error.value.message
