"""What a checkpoint of N1.7 knows of its data: read as upstream writes it, and written as upstream reads it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer.data.config_file import from_text, to_json, to_toml
from trainer.data.data_config import DataConfig, Feature
from trainer.data.modality_config import from_upstream, to_upstream
from trainer.data.n17 import processor_files
from trainer.data.n17.embodiments import PROJECTOR_INDEX, registered, tag_of
from trainer.data.n17.settings import ProcessorSettings
from trainer.data.n17.state_action import StateActionProcessor
from trainer.data.n17.statistics import KeyStatistics, TagStatistics, of_relative, of_values
from trainer.errors import DatasetError, UsageError


@pytest.fixture
def upstreams(golden_n17: Path) -> Path:
    return golden_n17 / "so101_processor"


def test_upstreams_files_are_written_back_as_they_were(upstreams: Path, tmp_path: Path) -> None:
    files = processor_files.read(upstreams)
    files.save(tmp_path)
    for name in ("processor_config.json", "statistics.json", "embodiment_id.json"):
        assert json.loads((tmp_path / name).read_text()) == json.loads((upstreams / name).read_text()), name
    config = files.data_config("new_embodiment")
    assert config == replace(registered()["so100"], name="new_embodiment")
    assert to_upstream(config) == files.modality_configs["new_embodiment"]
    assert files.slot("new_embodiment") == 10 and files.of_tag("new_embodiment").relative_action[
        "single_arm"
    ].shape == (16, 5)


def test_they_may_lie_in_a_folder_of_their_own(upstreams: Path, tmp_path: Path) -> None:
    shutil.copytree(upstreams, tmp_path / "processor")
    assert processor_files.read(tmp_path).settings == processor_files.read(upstreams).settings


def test_a_training_replaces_what_is_known_of_its_tag(upstreams: Path) -> None:
    before = processor_files.read(upstreams)
    config, known = registered()["libero_sim"], TagStatistics(state={}, action={})
    after = before.trained_on("libero_sim", config, known)
    assert after.data_config("libero_sim") == config and after.of_tag("libero_sim") is known
    assert after.data_config("new_embodiment") == before.data_config("new_embodiment")


@pytest.mark.parametrize(
    ("file", "changed", "problem"),
    [
        ("processor_config.json", None, "does not exist"),
        ("processor_config.json", "{", "is not JSON"),
        ("processor_config.json", {"processor_class": "Other"}, "describes the processor 'Other'"),
        (
            "processor_config.json",
            {"processor_class": "Gr00tN1d7Processor", "processor_kwargs": {"shortest_image_edge": 10**9}},
            "shortest_image_edge",
        ),
        (
            "processor_config.json",
            {"processor_class": "Gr00tN1d7Processor", "processor_kwargs": {"modality_configs": [1]}},
            "modality_configs is not an object",
        ),
        ("embodiment_id.json", {"new_embodiment": "ten"}, "something else than a number"),
        ("statistics.json", {"new_embodiment": {"state": {"arm": {"mean": [1]}}}}, "new_embodiment"),
    ],
)
def test_damaged_files_are_refused(upstreams: Path, tmp_path: Path, file: str, changed: Any, problem: str) -> None:
    shutil.copytree(upstreams, tmp_path, dirs_exist_ok=True)
    for copied in tmp_path.iterdir():
        copied.chmod(0o644)
    if changed is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(changed if isinstance(changed, str) else json.dumps(changed))
    with pytest.raises((UsageError, DatasetError), match=problem) as refused:
        processor_files.read(tmp_path)
    assert file in refused.value.message


def test_an_unknown_tag_is_refused(upstreams: Path) -> None:
    files = processor_files.read(upstreams)
    for ask in (files.data_config, files.of_tag, files.slot):
        with pytest.raises(UsageError, match="gr1"):
            ask("gr1")


UPSTREAM = {
    "video": {"delta_indices": [0], "modality_keys": ["front"]},
    "state": {"delta_indices": [0], "modality_keys": ["arm"]},
    "action": {"delta_indices": [0, 1], "modality_keys": ["arm"]},
    "language": {"delta_indices": [0], "modality_keys": ["annotation.human.task_description"]},
}
POSE = {"rep": "RELATIVE", "type": "EEF", "format": "DEFAULT"}


@pytest.mark.parametrize(
    ("part", "changed", "problem"),
    [
        ("video", None, "video: missing"),
        ("video", {"modality_keys": []}, r"video\.modality_keys"),
        ("video", {"delta_indices": [0, -15]}, r"video_delta_indices: \[0, -15\] does not lead up to 0"),
        ("state", {"delta_indices": [-1, 0]}, r"state\.delta_indices is \[-1, 0\]"),
        ("state", {"colour": 1}, r"state\.colour"),
        ("state", {"mean_std_embedding_keys": ["leg"]}, "mean_std_embedding_keys names leg"),
        ("action", {"delta_indices": [1, 2]}, r"action\.delta_indices is \[1, 2\]"),
        ("action", {"action_configs": []}, "0 action_configs for 1 modality_keys"),
        ("action", {"action_configs": [{**POSE, "rep": "SIDEWAYS"}]}, r"action\.action_configs\.0\.rep"),
        ("action", {"action_configs": [POSE]}, "action arm is a pose of format DEFAULT"),
        ("action", {"action_configs": [{**POSE, "type": "NON_EEF", "state_key": "leg"}]}, "relative to the state leg"),
    ],
)
def test_modality_configs_that_cant_be_trained_are_refused(part: str, changed: Any, problem: str) -> None:
    values: dict[str, Any] = {**UPSTREAM, part: {**UPSTREAM[part], **(changed or {})}}
    if changed is None:
        del values[part]
    with pytest.raises(UsageError, match=problem) as refused:
        from_upstream(values, "mine", "processor_config.json: mine")
    assert "processor_config.json: mine" in refused.value.message


@pytest.mark.parametrize("name", [*registered()])
def test_registered_configs_survive_both_ways(name: str) -> None:
    config = registered()[name]
    assert from_upstream(to_upstream(config), name, name) == config
    assert from_text(to_toml(config), name, toml=True) == config
    assert from_text(to_json(config), name) == config
    assert name in {"so100", "gr1_arms_only"} or name in PROJECTOR_INDEX


def test_tags_are_named_as_upstream_names_them() -> None:
    assert tag_of("LIBERO_PANDA") == tag_of("libero_sim") == "libero_sim"
    assert tag_of("New_Embodiment") == "new_embodiment"
    with pytest.raises(UsageError, match="gr1") as refused:
        tag_of("gr1")
    assert "new_embodiment" in refused.value.hint


def known(width: int, horizon: int | None = None) -> KeyStatistics:
    shape = (width,) if horizon is None else (horizon, width)
    values = np.linspace(0, 1, 50)[(...,) + (None,) * len(shape)] * np.ones(shape)
    return of_values(values)


def config(**changed: Any) -> DataConfig:
    values: dict[str, Any] = {
        "name": "mine",
        "video": ("front",),
        "state": (Feature("arm"),),
        "action": (Feature("arm", relative_to="arm"),),
        "language": "annotation.human.task_description",
        "action_horizon": 4,
    }
    return DataConfig(**{**values, **changed})


@pytest.mark.parametrize(
    ("changed", "statistics", "problem"),
    [
        ({}, TagStatistics(state={"arm": known(5)}, action={}), "no relative action statistics of arm"),
        (
            {},
            TagStatistics(state={"arm": known(5)}, action={}, relative_action={"arm": known(5, 16)}),
            "are those of 16 steps; mine predicts 4",
        ),
        (
            {},
            TagStatistics(state={"arm": known(6)}, action={}, relative_action={"arm": known(5, 4)}),
            "has 5 dimensions, but state.arm, which it is relative to, has 6",
        ),
        ({"action_horizon": 41}, TagStatistics(state={}, action={}), "predicts 41 steps; the model takes 40"),
        (
            {"action": (Feature("arm", relative_to="arm", pose="xyz_rot6d"),)},
            TagStatistics(state={"arm": known(5)}, action={}, relative_action={"arm": known(5, 4)}),
            "a pose of xyz_rot6d has 9",
        ),
        (
            {"action": (Feature("arm"),)},
            TagStatistics(state={"arm": known(133)}, action={"arm": known(5)}),
            "states of mine have 133 dimensions; the model takes 132",
        ),
    ],
)
def test_statistics_that_dont_fit_are_refused(changed: Any, statistics: TagStatistics, problem: str) -> None:
    with pytest.raises((UsageError, DatasetError), match=problem):
        StateActionProcessor(config(**changed), ProcessorSettings(), statistics)


def test_no_episode_as_long_as_the_horizon_is_refused() -> None:
    short = [(np.zeros((3, 5), np.float32), np.zeros((3, 5), np.float32))]
    with pytest.raises(DatasetError, match="as long as the 4 steps"):
        of_relative(Feature("arm", relative_to="arm"), short, 4, "the dataset")


def test_a_state_that_is_excluded_is_zero() -> None:
    statistics = TagStatistics(state={"arm": known(5)}, action={"arm": known(5)})
    plain = config(action=(Feature("arm"),))
    raw = {"arm": np.full((1, 5), 0.9, np.float32)}
    assert StateActionProcessor(plain, ProcessorSettings(), statistics).state(raw).any()
    assert not StateActionProcessor(plain, ProcessorSettings(exclude_state=True), statistics).state(raw).any()
