"""Episodes that are left out altogether: from the check, training, statistics, holdout and evaluation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.support.lerobot_v3 import to_v3
from trainer.config.argv import parse_flags, require_engine_can, to_argv
from trainer.config.data_options import DataOptions
from trainer.config.finetune_config import FinetuneConfig
from trainer.data.checks import check_dataset
from trainer.data.configs import get_data_config
from trainer.data.dataset import TrainingDataset
from trainer.data.exclusion import as_texts, left_in, numbers_as_texts, of_dataset, parse_exclusion
from trainer.data.synthetic import make_synthetic
from trainer.errors import DatasetError, UsageError
from trainer.evaluation.dataset import EvaluationDataset
from trainer.importers.normalize_dataset import require_valid
from trainer.runner.dataset_check import check_datasets

CONFIG = "fourier_gr1_arms_only"
TABLE = "data/chunk-000/episode_000001.parquet"


@given(st.sets(st.integers(0, 200)))
def test_numbers_are_written_at_their_shortest_and_read_back(numbers):
    texts = numbers_as_texts(numbers)
    assert set(range(201)) - set(left_in(range(201), texts)) == numbers
    assert as_texts(parse_exclusion(",".join(texts))) == texts
    assert numbers_as_texts(sorted(numbers, reverse=True)) == texts


def test_what_means_the_same_is_the_same_configuration():
    typed = FinetuneConfig(dataset_path=["one"], exclude_episodes=["41-44", "40", "17,3", "42"])
    form = FinetuneConfig.model_validate({"dataset_path": ["one"], "exclude_episodes": "3 17 40-44"})
    assert typed == form and typed.exclude_episodes == ["3", "17", "40-44"]
    base = FinetuneConfig(dataset_path=["…"])
    assert parse_flags(to_argv(typed), base)[0] == typed
    assert "--exclude-episodes" not in to_argv(base)
    assert typed.data_options == [DataOptions(exclude_episodes=("3", "17", "40-44"))]


def test_of_several_datasets_each_has_its_own():
    both = FinetuneConfig(dataset_path=["one", "two"], exclude_episodes=["2:5", "1:3-4", "2:6"])
    assert both.exclude_episodes == ["1:3-4", "2:5-6"]
    assert [each.exclude_episodes for each in both.data_options] == [("3-4",), ("5-6",)]
    assert of_dataset(both.exclude_episodes, 2, 2) == ("5-6",)


@pytest.mark.parametrize(
    ("text", "datasets", "message"),
    [
        ("x", 1, "neither an episode such as 17"),
        ("3-", 1, "neither an episode"),
        ("-3", 1, "neither an episode"),
        ("9-3", 1, "ends before it begins: write 3-9"),
        ("3", 2, "may mean any of 2 datasets: write 1:3 for the first"),
        ("3:1", 2, "means dataset 3, and there are 2"),
        ("0:1", 1, "means dataset 0"),
        ("99999999999", 1, "neither an episode"),
    ],
)
def test_what_can_not_be_meant_is_refused_where_it_is_typed(text, datasets, message):
    with pytest.raises(ValueError, match=message):
        parse_exclusion([text], datasets)
    with pytest.raises(ValidationError, match=message):
        FinetuneConfig(dataset_path=["data"] * datasets, exclude_episodes=[text])


def test_engines_that_read_the_folder_themselves_refuse_it():
    config = FinetuneConfig(dataset_path=["one"], data_config=CONFIG, exclude_episodes=["3"])
    with pytest.raises(UsageError, match="--exclude-episodes: upstream trains on every episode") as refused:
        require_engine_can(config, "isaac-uv")
    assert "--engine native" in refused.value.hint
    require_engine_can(config, "native")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_synthetic(tmp_path_factory.mktemp("data") / "synthetic", episodes=4)


@pytest.fixture
def damaged(dataset: Path, tmp_path: Path) -> Path:
    """Episode 1 can't be read."""
    folder = Path(shutil.copytree(dataset, tmp_path / "damaged"))
    (folder / TABLE).write_bytes(b"no parquet")
    return folder


@pytest.mark.parametrize(
    ("excluded", "message"),
    [
        (("2-5",), "no episode 4, 5\\."),
        (("7",), "no episode 7"),
        (("900000000",), "no episode 900000000"),
        (("0-900000000",), "no episode 4"),
        (("0-3",), "none would be left to train on"),
    ],
)
def test_episodes_that_do_not_exist_and_all_of_them_are_refused_by_the_check(dataset, excluded, message):
    with pytest.raises(UsageError, match=message):
        check_dataset(dataset, CONFIG, options=DataOptions(exclude_episodes=excluded))


def test_what_is_left_out_can_not_stop_a_training(damaged):
    assert check_dataset(damaged, CONFIG).problems
    without = DataOptions(exclude_episodes=("1",))
    checked = check_dataset(damaged, CONFIG, options=without)
    assert not checked.problems
    trained = TrainingDataset(
        [damaged], CONFIG, "new_embodiment", exclude=[("1",)], statistics=[checked.statistics], holdout="1"
    )
    assert trained.readers[0].trajectory_ids != [0, 2, 3] and len(trained.held_out[0]) == 1


def test_a_training_is_that_of_a_dataset_which_never_had_them(dataset: Path, tmp_path: Path):
    never = Path(shutil.copytree(dataset, tmp_path / "without"))
    lines = (never / "meta/episodes.jsonl").read_text().splitlines(keepends=True)
    (never / "meta/episodes.jsonl").write_text("".join([lines[0], lines[3]]))
    (never / "meta/stats.json").unlink()
    excluded = TrainingDataset([dataset], CONFIG, "new_embodiment", exclude=[("1-2",)])
    theirs, whole = (TrainingDataset([each], CONFIG, "new_embodiment") for each in (never, dataset))
    assert len(excluded) == len(theirs) < len(whole)
    assert excluded.metadata == theirs.metadata != whole.metadata
    assert excluded.trained_on == theirs.trained_on
    for index in (0, len(theirs) - 1):
        ours, other = excluded[index], theirs[index]
        assert all(np.array_equal(ours[name], other[name]) for name in ("images", "state", "action", "text"))
    # What a check found is what is used, and it finds the same.
    checked = check_dataset(dataset, CONFIG, options=DataOptions(exclude_episodes=("1-2",)))
    by_check = TrainingDataset([dataset], CONFIG, "new_embodiment", exclude=[("1-2",)], statistics=[checked.statistics])
    assert by_check.metadata == excluded.metadata


def test_neither_holdout_nor_evaluation_takes_one(damaged: Path):
    for rule in ("0.5", "2"):
        trained = TrainingDataset([damaged], CONFIG, "new_embodiment", exclude=[("1",)], holdout=rule)
        assert 1 not in trained.held_out[0]
    with pytest.raises(UsageError, match="no episode 1"):
        TrainingDataset([damaged], CONFIG, "new_embodiment", exclude=[("1",)], holdout="1,2")
    data = EvaluationDataset(damaged, exclude=("1", "9"))  # of another version of the dataset
    seen = data.all_of(get_data_config(CONFIG), "timestamp", trained.trained_on)
    # Nothing that is taken from its reader, such as another episode's instruction, can be of that one.
    assert data.reader(get_data_config(CONFIG), "timestamp").trajectory_ids == [0, 2, 3]
    assert {each.episode: each.trained_on for each in seen} == {
        number: number not in trained.held_out[0] for number in (0, 2, 3)
    }


def test_a_mixture_leaves_out_of_each_what_is_its_own(dataset: Path, tmp_path: Path):
    other = Path(shutil.copytree(dataset, tmp_path / "other"))
    info = json.loads((other / "meta/info.json").read_text())
    assert info["total_episodes"] == 4
    config = FinetuneConfig(dataset_path=[str(dataset), str(other)], exclude_episodes=["1:0", "2:2-3"])
    mixed = TrainingDataset(
        [dataset, other], CONFIG, "new_embodiment", exclude=[each.exclude_episodes for each in config.data_options]
    )
    assert [reader.trajectory_ids for reader in mixed.readers] == [[1, 2, 3], [0, 1]]


def test_of_a_v3_dataset_the_same_is_left_out(dataset: Path, tmp_path: Path):
    v3 = to_v3(dataset, tmp_path / "v3")
    without = DataOptions(exclude_episodes=("1-2",))
    checked = check_dataset(v3, CONFIG, options=without)
    assert not checked.problems
    ours, theirs = (
        TrainingDataset([each], CONFIG, "new_embodiment", exclude=[without.exclude_episodes]) for each in (v3, dataset)
    )
    assert ours.trained_on == theirs.trained_on and ours.readers[0].trajectory_ids == [0, 3]
    assert ours.metadata.statistics == theirs.metadata.statistics
    with pytest.raises(UsageError, match="no episode 4"):
        check_dataset(v3, CONFIG, options=DataOptions(exclude_episodes=("4",)))


@pytest.mark.parametrize("v3", [False, True])
def test_where_some_episodes_are_damaged_the_check_says_which_flag_leaves_them_out(dataset, v3, tmp_path, monkeypatch):
    monkeypatch.setenv("PIPPA_HOME", str(tmp_path / "home"))
    folder = (
        to_v3(dataset, tmp_path / "my v3", per_file=1) if v3 else Path(shutil.copytree(dataset, tmp_path / "my v2"))
    )
    (sorted(folder.glob("data/*/*.parquet"))[1]).write_bytes(b"no parquet")
    sorted(folder.glob("videos/**/*.mp4"))[3].write_bytes(b"no video")
    with pytest.raises(DatasetError) as refused:
        require_valid(folder, CONFIG, str(folder))
    assert f"`pippa data check '{folder}' --data-config {CONFIG}` checks it again" in refused.value.hint
    assert refused.value.hint.endswith(" To continue without episodes 1, 3, add `--exclude-episodes 1 3`.")
    assert not require_valid(folder, CONFIG, str(folder), DataOptions(exclude_episodes=("1", "3"))).problems
    with pytest.raises(DatasetError) as refused:
        require_valid(folder, CONFIG, str(folder), DataOptions(exclude_episodes=("0", "1")))
    assert "without episode 3, add `--exclude-episodes 0-1 3`" in refused.value.hint

    both = {"dataset_path": [str(dataset), str(folder)], "data_config": CONFIG}
    with pytest.raises(DatasetError) as refused:
        check_datasets([(dataset, "one"), (folder, "two")], FinetuneConfig(**both), lambda _: None, tmp_path)
    assert refused.value.hint.endswith("add `--exclude-episodes 2:1 2:3`.") and "check PATH" in refused.value.hint


def test_no_flag_is_advised_where_most_episodes_are_damaged_or_the_whole_dataset(dataset: Path, tmp_path: Path):
    folder = Path(shutil.copytree(dataset, tmp_path / "damaged"))
    for number in range(3):
        assert check_dataset(folder, CONFIG).damaged == list(range(number))
        (folder / f"data/chunk-000/episode_{number:06d}.parquet").write_bytes(b"no parquet")
    assert check_dataset(folder, CONFIG).damaged == []
    (folder / "meta/tasks.jsonl").write_text("{")
    assert check_dataset(folder, CONFIG).problems and check_dataset(folder, CONFIG).damaged == []
