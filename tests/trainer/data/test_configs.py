"""Data configs: upstream's keys and widths, and configs of one's own."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from trainer.data.configs import DATA_CONFIGS, EXAMPLE, PROJECTOR_INDEX, DataConfig, Feature, get_data_config
from trainer.data.dataset_meta import DatasetMeta
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


def test_a_config_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_robot.py").write_text(
        "from trainer.data.configs import DataConfig, Feature\n"
        "ARM = DataConfig('arm', ('top',), (Feature('joints', 'q99'),), (Feature('joints', 'min_max'),),\n"
        "                 'annotation.task', action_horizon=8)\n"
        "def make(): return ARM\n"
        "class Upstream:\n"
        "    def modality_config(self): ...\n"
        "    def transform(self): ...\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    for name in [name for name in sys.modules if name.partition(".")[0] in ("gr00t", "my_robot")]:
        monkeypatch.delitem(sys.modules, name)  # another test's
    assert get_data_config("my_robot:ARM") is get_data_config("my_robot:make")
    assert get_data_config("my_robot:ARM").action_horizon == 8
    with pytest.raises(UsageError, match="an Isaac-GR00T class") as caught:
        get_data_config("my_robot:Upstream")
    assert "MY_ARM = DataConfig(" in caught.value.hint
    with pytest.raises(UsageError, match="is str, not a DataConfig"):
        get_data_config("my_robot:__name__")
    (tmp_path / "theirs.py").write_text("from gr00t.data.transform.base import ComposedModalityTransform\n")
    with pytest.raises(UsageError, match="theirs:Config imports gr00t, which is Isaac-GR00T's") as caught:
        get_data_config("theirs:Config")
    assert "MY_ARM = DataConfig(" in caught.value.hint
    (tmp_path / "typo.py").write_text("from trainer.data.configs import Feature\nARM = Feature('joints', 'minmax')\n")
    with pytest.raises(UsageError, match="normalise='minmax' of the key joints"):
        get_data_config("typo:ARM")
    with pytest.raises(UsageError, match="can't be loaded: AttributeError"):
        get_data_config("my_robot:LEG")
    with pytest.raises(UsageError, match="can't be loaded: ModuleNotFoundError"):
        get_data_config("her_robot:ARM")


def test_the_example_of_the_errors_and_of_the_page_works() -> None:
    code = EXAMPLE.partition("\n")[2]
    names: dict[str, Any] = {}
    exec(textwrap.dedent(code), names)
    ours, theirs = names["MY_ARM"], get_data_config("so100_dualcam")
    assert (ours.video, ours.state, ours.action, ours.language) == (
        theirs.video, theirs.state, theirs.action, theirs.language,
    )  # fmt: skip
    page = (Path(__file__).parents[3] / "docs/data.md").read_text()
    assert textwrap.dedent(code) in page


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"video": "front"}, "video of the data config arm is 'front'"),
        ({"video": ("video.front",)}, r"video of the data config arm has video\.front"),
        ({"state": ("joints",)}, "state of the data config arm"),
        ({"action": (Feature("joints"), Feature("joints"))}, "action of the data config arm has joints"),
        ({"language": "human.task"}, "language of the data config arm"),
        ({"action_horizon": 0}, "below 1"),
    ],
)
def test_a_declaration_that_can_not_be_meant(change: dict[str, Any], message: str) -> None:
    fields: dict[str, Any] = {
        "name": "arm",
        "video": ("front",),
        "state": (Feature("joints"),),
        "action": (Feature("joints"),),
    }
    with pytest.raises(UsageError, match=message):
        DataConfig(**(fields | {"language": "annotation.task"} | change))
    with pytest.raises(UsageError, match="and something else besides"):
        Feature("joints", "min_max", sin_cos=True)
