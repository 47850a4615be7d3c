"""Data configs: upstream's keys and widths, and those of one's own, declared in a file."""

from __future__ import annotations

import json
import os
import re
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data import config_file
from trainer.data.config_file import as_argument, from_text, to_json, to_toml
from trainer.data.config_module import EXAMPLE
from trainer.data.configs import (
    DATA_CONFIGS,
    PROJECTOR_INDEX,
    DataConfig,
    Feature,
    Normalisation,
    declared,
    get_data_config,
)
from trainer.data.dataset_meta import DatasetMeta, RotationType
from trainer.errors import UsageError


def test_upstreams_names_and_horizon() -> None:
    assert set(DATA_CONFIGS) == {
        "fourier_gr1_arms_only", "fourier_gr1_arms_waist", "fourier_gr1_full_upper_body", "so100", "so100_dualcam",
        "unitree_g1", "unitree_g1_full_body", "bimanual_panda_gripper", "bimanual_panda_hand", "single_panda_gripper",
        "oxe_droid", "agibot_genie1",
    }  # fmt: skip
    assert {config.action_horizon for config in DATA_CONFIGS.values()} == {16}
    assert PROJECTOR_INDEX == {"gr1": 24, "oxe_droid": 17, "agibot_genie1": 26, "new_embodiment": 31}


def test_order_of_keys_is_upstreams() -> None:
    assert get_data_config("so100_dualcam").keys("video") == ["front", "wrist"]
    assert get_data_config("fourier_gr1_arms_waist").keys("state") == [
        "left_arm", "right_arm", "left_hand", "right_hand", "waist",
    ]  # fmt: skip
    assert get_data_config("unitree_g1_full_body").keys("action") == [
        "left_arm", "left_hand", "right_arm", "right_hand",
    ]  # fmt: skip
    panda = get_data_config("bimanual_panda_gripper")
    assert panda.keys("state")[:3] == ["right_arm_eef_pos", "right_arm_eef_quat", "right_gripper_qpos"]
    assert [feature.normalise for feature in panda.action] == [None, None, "binary"] * 2
    assert get_data_config("agibot_genie1").keys("action")[-1] == "robot_velocity"


def test_which_configs_fit_the_demo(demo_dataset: Path) -> None:
    modality = DatasetMeta.load(demo_dataset).modality
    fitting = [name for name, config in DATA_CONFIGS.items() if not config.missing(modality)]
    assert fitting == ["fourier_gr1_arms_only", "fourier_gr1_arms_waist"]
    assert DATA_CONFIGS["fourier_gr1_full_upper_body"].missing(modality) == {"video": ["front_view"]}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, in which modules are found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    for name in [name for name in sys.modules if name.partition(".")[0] in ("gr00t", "my_robot", "typo", "theirs")]:
        monkeypatch.delitem(sys.modules, name)  # another test's
    return tmp_path


def test_a_python_module_is_read_where_it_is_named(here: Path) -> None:
    (here / "my_robot.py").write_text(
        "from trainer.data.configs import DataConfig, Feature\n"
        "ARM = DataConfig('arm', ('top',), (Feature('joints', 'q99'),), (Feature('joints', 'min_max'),),\n"
        "                 'annotation.task', action_horizon=8)\n"
        "def make(): return ARM\n"
        "class Upstream:\n"
        "    def modality_config(self): ...\n"
        "    def transform(self): ...\n"
    )
    assert get_data_config("my_robot:ARM") is get_data_config("my_robot:make")
    assert get_data_config("my_robot:ARM").action_horizon == 8
    # From here on it is data, which is read back where the module is not.
    (here / "my_robot.py").unlink()
    assert get_data_config(as_argument(declared("my_robot:ARM"))) == get_data_config("my_robot:ARM")
    with pytest.raises(UsageError, match="an Isaac-GR00T class") as caught:
        get_data_config("my_robot:Upstream")
    assert 'video = ["front", "wrist"]' in caught.value.hint
    with pytest.raises(UsageError, match="is str, not a DataConfig"):
        get_data_config("my_robot:__name__")
    (here / "theirs.py").write_text("from gr00t.data.transform.base import ComposedModalityTransform\n")
    with pytest.raises(UsageError, match="theirs:Config imports gr00t, which is Isaac-GR00T's"):
        get_data_config("theirs:Config")
    (here / "typo.py").write_text("from trainer.data.configs import Feature\nARM = Feature('joints', 'minmax')\n")
    with pytest.raises(UsageError, match=r"typo:ARM: normalise is 'minmax'\. Did you mean min_max"):
        get_data_config("typo:ARM")
    with pytest.raises(UsageError, match="can't be loaded: AttributeError"):
        get_data_config("my_robot:LEG")
    with pytest.raises(UsageError, match="can't be loaded: ModuleNotFoundError"):
        get_data_config("her_robot:ARM")


def test_an_unknown_name_suggests_the_nearest_name_or_file(here: Path) -> None:
    with pytest.raises(UsageError) as caught:
        get_data_config("so100_dual_cam")
    assert caught.value.hint.startswith("Did you mean so100_dualcam?")
    (here / "my_robot.toml").touch()
    with pytest.raises(UsageError) as caught:
        get_data_config("my_robot")
    assert caught.value.hint.startswith("Did you mean my_robot.toml?")


def test_a_built_in_one_travels_by_its_name_and_no_other_takes_that_name(here: Path) -> None:
    assert declared("so100") == "so100"
    same = to_toml(DATA_CONFIGS["so100"])
    (here / "copy.toml").write_text(same)
    assert declared("copy.toml") == "so100"
    (here / "mine.toml").write_text(same.replace("webcam", "top"))
    with pytest.raises(UsageError, match="called so100, as a built-in one that differs"):
        declared("mine.toml")
    (here / "mine.toml").write_text(same.replace("webcam", "top").replace('"so100"', '"so100_top"'))
    assert declared("mine.toml") == replace(DATA_CONFIGS["so100"], name="so100_top", video=("top",))


def test_the_built_in_ones_are_files_as_anybody_writes_them() -> None:
    for name, config in DATA_CONFIGS.items():
        file = Path(config_file.__file__).parent / f"data_configs/{name}.toml"
        assert file.read_text() == to_toml(config)


def test_the_examples_of_the_errors_and_of_the_page_work(here: Path) -> None:
    page = (Path(config_file.__file__).parents[2] / "docs/data.md").read_text()
    (toml,) = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    ours, theirs = from_text(toml, "page", toml=True, name="so100_dualcam"), get_data_config("so100_dualcam")
    assert ours == theirs
    assert textwrap.dedent(EXAMPLE.partition("\n")[2]) == toml
    (here / "my_robot.py").write_text(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)[0])
    assert get_data_config("my_robot:MY_ARM").keys("action")[-1] == "joint_6"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"video": "front"}, r"video is 'front'\. It is a list of cameras"),
        ({"video": []}, r"video is \[\]\. It is a list of cameras"),
        ({"state": []}, r"state is \[\]\. Write features"),
        ({"action": []}, r"action is \[\]\. Write features"),
        ({"video_delta_indices": []}, r"video_delta_indices is \[\]\. Leave it out for the present frame alone"),
        ({"video": ["video.front"]}, r"video has video\.front; leave out `video\.`"),
        ({"video": ["a\nb"]}, r"'a\\nb' is not a key"),
        ({"state": ["joints"]}, r"state\[0\] is 'joints'\. Write features"),
        ({"action": [{"key": "joints"}, {"key": "joints"}]}, "action has joints twice"),
        (
            {"action": [{"key": "joints", "normalize": "q99"}]},
            r"no key action\[0\]\.normalize\. Did you mean normalise\?",
        ),
        ({"action": [{"key": "joints", "rotation": "quat"}]}, r"action\[0\]\.rotation is 'quat'"),
        ({"action": [{"key": "joints", "normalise": "q99", "sin_cos": True}]}, r"action\[0\]: sin_cos stands alone"),
        ({"language": "human.task"}, "language: 'human.task' is not the full name"),
        ({"action_horizon": 0}, "action_horizon: 0 must be at least 1"),
        ({"action_horizon": 10**9}, "action_horizon: 1000000000 must be at most"),
        ({"action_horizon": "16"}, "action_horizon: '16' is not a whole number"),
        ({"action_horizon": True}, "action_horizon: True is not a whole number"),
        ({"max_action_dim": 32.0}, "max_action_dim: 32.0 is not a whole number"),
        ({"name": "../arm"}, "name: '../arm' has another form than"),
        ({"horizon": 16}, r"no key horizon\. Did you mean action_horizon\?"),
        ({"language": None}, "language: None is not a text"),
    ],
)
def test_a_declaration_that_can_not_be_meant_names_the_key(change: dict[str, Any], message: str) -> None:
    fields: dict[str, Any] = {"name": "arm", "video": ["front"], "state": [{"key": "joints"}]}
    fields |= {"action": [{"key": "joints"}], "language": "annotation.task"}
    with pytest.raises(UsageError, match=message) as caught:
        from_text(json.dumps(fields | change), "arm.json")
    assert caught.value.message.startswith("arm.json: ")


def test_missing_keys_are_all_named() -> None:
    with pytest.raises(UsageError) as caught:
        from_text("action_horizon = 16", "arm.toml", toml=True)
    assert [line.split()[1] for line in caught.value.message.splitlines()] == "name video state action language".split()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("deep.json", '{"video":' * 5000, "nested too deep|not JSON"),
        ("deep.json", '{"video":' + "[" * 30000 + "]" * 30000 + "}", "nested too deep|not JSON"),
        ("deep.toml", "video = " + "[" * 30000 + "]" * 30000, "nested too deep|not TOML"),
        ("dots.toml", "a" + ".a" * 30000 + " = 1", "nested too deep"),
        ("huge.toml", "name = 'x'\n" * 20000, "larger than 64 KiB"),
        ("list.json", "[]", "not a data config but"),
        ("broken.toml", "name = so100", r"not TOML \(Invalid value \(at line 1, column 8\)\)"),
        ("number.json", '{"action_horizon": ' + "9" * 5000 + "}", "not JSON"),
    ],
)
def test_hostile_files_are_refused_by_name(here: Path, name: str, text: str, message: str) -> None:
    (here / name).write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        get_data_config(name)
    assert caught.value.message.startswith(f"{name}: ")
    assert len(str(caught.value)) < 2000


def test_what_is_no_text_file_is_refused(here: Path) -> None:
    os.mkfifo(here / "pipe.toml")
    (here / "binary.toml").write_bytes(b"\xff\xfe")
    (here / "folder.toml").mkdir()
    for name, message in (
        ("pipe.toml", "not a regular file"),
        ("binary.toml", "can't be read"),
        ("folder.toml", "not a regular file"),
        ("absent.toml", "There is no file absent.toml"),
    ):
        with pytest.raises(UsageError, match=message):
            get_data_config(name)


KEYS = st.text(st.characters(exclude_categories=("C", "Z")) | st.just(" "), min_size=1, max_size=20).filter(
    lambda key: key == key.strip() and key.isprintable() and not key.startswith(("video.", "state.", "action."))
)
FEATURES = st.builds(
    Feature,
    key=KEYS,
    normalise=st.sampled_from([None, *get_args(Normalisation)]),
    rotation=st.sampled_from([None, *get_args(RotationType)]),
) | st.builds(Feature, key=KEYS, sin_cos=st.just(True))
CONFIGS = st.builds(
    DataConfig,
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
    video=st.lists(KEYS, min_size=1, max_size=4, unique=True).map(tuple),
    state=st.lists(FEATURES, min_size=1, max_size=4, unique_by=lambda feature: feature.key).map(tuple),
    action=st.lists(FEATURES, min_size=1, max_size=4, unique_by=lambda feature: feature.key).map(tuple),
    language=KEYS.map(lambda key: f"annotation.{key}"),
    action_horizon=st.integers(1, 1024),
)


@given(CONFIGS)
def test_what_is_written_is_read_back(config: DataConfig) -> None:
    assert from_text(to_toml(config), "x", toml=True) == config
    assert from_text(to_json(config), "x") == config
