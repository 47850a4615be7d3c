from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.support.lerobot_v3 import to_v3
from tests.support.so101_cases import CONFIG, make
from trainer.data.checks import check_dataset
from trainer.errors import DatasetError
from trainer.runner import engine_datasets

V3_INFO = "meta/info.json"


@pytest.fixture
def v3(tmp_path: Path) -> Path:
    return to_v3(make(tmp_path / "v2"), tmp_path / "v3")


def test_only_isaacs_engines_get_a_copy_and_only_of_v3(v3: Path, tmp_path: Path) -> None:
    said: list[str] = []
    run, v2 = tmp_path / "run", v3.with_name("v2")
    datasets = [(v2, "old"), (v3, "new")]
    assert engine_datasets.for_engine("native", datasets, CONFIG, run, said.append) == [v2, v3]
    assert said == [] and not run.exists()
    first, second = engine_datasets.for_engine("isaac-uv", datasets, CONFIG, run, said.append)
    assert first == v2 and second.is_relative_to(run)
    assert json.loads((second / V3_INFO).read_text())["codebase_version"] == "v2.1"
    assert check_dataset(second, CONFIG).problems == []
    assert said == ["Converting new from LeRobot v3.0 to v2.1, which the engine isaac-uv reads."]


def test_a_copy_is_made_once_and_removed_with_the_others(v3: Path, tmp_path: Path) -> None:
    run, said = tmp_path / "run", []
    (run / "datasets/0.building/data").mkdir(parents=True)  # of an attempt that was killed
    for _ in range(2):
        (copy,) = engine_datasets.for_engine("isaac-conda", [(v3, "new")], CONFIG, run, said.append)
    assert len(said) == 1 and (copy / "meta/episodes.jsonl").is_file()
    engine_datasets.remove(run)
    assert list(run.iterdir()) == []


def test_a_camera_that_nobody_uses_is_left_out_and_a_used_one_is_not(v3: Path, tmp_path: Path) -> None:
    info = json.loads((v3 / V3_INFO).read_text())
    info["features"]["observation.images.depth"] = info["features"]["observation.images.front"]
    (v3 / V3_INFO).write_text(json.dumps(info))
    said: list[str] = []
    (copy,) = engine_datasets.for_engine("isaac-uv", [(v3, "new")], CONFIG, tmp_path / "run", said.append)
    assert check_dataset(copy, CONFIG).problems == []
    shutil.rmtree(v3 / "videos/observation.images.wrist")
    with pytest.raises(DatasetError, match=r"wrist.*missing"):
        engine_datasets.for_engine("isaac-uv", [(v3, "new")], CONFIG, tmp_path / "other", said.append)
    assert not (tmp_path / "other/datasets/0").exists()
