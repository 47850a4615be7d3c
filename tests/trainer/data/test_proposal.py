"""What is proposed for datasets of robots as they are recorded, and that it passes the check."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.lerobot_v3 import to_v3
from tests.support.so101 import make_so101
from trainer.data.body_parts import parts_of
from trainer.data.checks import check_dataset
from trainer.data.configs import DATA_CONFIGS
from trainer.data.known_robots import to_json
from trainer.data.proposal import Proposal, propose
from trainer.data.synthetic import make_synthetic
from trainer.errors import DatasetError

ALOHA_ARM = "waist shoulder elbow forearm_roll wrist_angle wrist_rotate gripper".split()
ALOHA = [f"{side}_{joint}" for side in ("left", "right") for joint in ALOHA_ARM]
FRANKA = [*(f"joint_{i}" for i in range(1, 8)), "gripper"]
LIBERO = ["x", "y", "z", "axis_angle1", "axis_angle2", "axis_angle3", "gripper", "gripper"]


def make(
    path: Path, columns: dict[str, tuple[int, object]], robot: str | None, cameras: tuple[str, ...] = ("front", "wrist")
) -> Path:
    """A dataset whose vectors are ``columns``: widths and names."""
    make_so101(path, cameras)
    file = path / "meta/info.json"
    info = json.loads(file.read_text())
    for name in ("action", "observation.state"):
        del info["features"][name]
    for name, (width, names) in columns.items():
        info["features"][name] = {"dtype": "float32", "shape": [width], "names": names}
    file.write_text(json.dumps(info | {"robot_type": robot}))
    for table_file in path.glob("data/*/*.parquet"):
        table = pq.read_table(table_file).drop_columns(["action", "observation.state"])
        for name, (width, _) in columns.items():
            values = np.sin(np.outer(np.arange(table.num_rows), np.arange(1, width + 1)) / 9).astype(np.float32)
            table = table.append_column(name, pa.array(list(values)))
        pq.write_table(table, table_file)
    return path


def accepted(folder: Path) -> Proposal:
    """The proposal for ``folder``, written there and checked."""
    proposal = propose(folder, "mine")
    if proposal.writes_modality:
        (folder / "meta/modality.json").write_text(to_json(proposal.modality))
    checked = check_dataset(folder, proposal.config)
    assert not checked.problems
    return proposal


def slices(proposal: Proposal, kind: str = "state") -> dict[str, tuple[int, int]]:
    return {key: (entry.start, entry.end) for key, entry in getattr(proposal.modality, kind).items()}


@pytest.mark.parametrize(
    ("cameras", "config", "names"),
    [
        (("front", "wrist"), "so100_dualcam", ("front", "wrist")),
        (("top", "gripper_cam"), "so100_dualcam", ("front", "wrist")),
        (("laptop",), "so100", ("webcam",)),
        (("laptop", "phone"), "mine", ("laptop", "phone")),
        (("front", "side", "wrist"), "mine", ("front", "side", "wrist")),
    ],
)
def test_an_so101_with_any_cameras(
    tmp_path: Path, cameras: tuple[str, ...], config: str, names: tuple[str, ...]
) -> None:
    proposal = accepted(make_so101(tmp_path / "so101", cameras))
    assert slices(proposal) == slices(proposal, "action") == {"single_arm": (0, 5), "gripper": (5, 6)}
    assert proposal.config.name == config and proposal.config.video == names
    assert proposal.is_built_in == (config in DATA_CONFIGS)
    sources = [proposal.modality.column("video", key) for key in proposal.config.video]
    assert sources == [f"observation.images.{camera}" for camera in cameras]


@pytest.mark.parametrize(
    ("robot", "width", "names", "expected"),
    [
        ("aloha", 14, {"motors": ALOHA}, {"left_arm": 6, "left_gripper": 1, "right_arm": 6, "right_gripper": 1}),
        ("aloha", 14, None, {"left_arm": 6, "left_gripper": 1, "right_arm": 6, "right_gripper": 1}),
        ("franka", 8, {"motors": FRANKA}, {"single_arm": 7, "gripper": 1}),
        ("panda", 8, {"motors": LIBERO}, {"end_effector_position": 3, "end_effector_rotation": 3, "gripper": 2}),
        (None, 3, {"delta_x": 0, "delta_y": 1, "gripper": 2}, {"end_effector_position": 2, "gripper": 1}),
        (None, 9, None, {"joints": 9}),
        ("mystery", 40, [f"motor_{i}" for i in range(40)], {"joints": 40}),
    ],
)
def test_the_parts_of_other_robots(
    tmp_path: Path, robot: str | None, width: int, names: object, expected: dict[str, int]
) -> None:
    columns = {"observation.state": (width, names), "action": (width, names)}
    proposal = accepted(make(tmp_path / "robot", columns, robot, ("top", "side")))
    assert {key: end - start for key, (start, end) in slices(proposal).items()} == expected
    assert proposal.config.name == "mine" and proposal.config.keys("action") == list(expected)
    assert proposal.config.max_action_dim == max(32, width)


def test_columns_of_their_own_become_keys(tmp_path: Path) -> None:
    columns: dict[str, tuple[int, object]] = {
        "observation.state.joint_position": (7, None),
        "observation.state.gripper_position": (1, None),
        "action.joint_position": (7, None),
        "action.gripper_position": (1, None),
    }
    proposal = accepted(make(tmp_path / "droid", columns, "unknown"))
    assert slices(proposal) == {"joint_position": (0, 7), "gripper_position": (0, 1)}
    assert proposal.config.keys("action") == ["joint_position", "gripper_position"]


def test_a_state_that_the_model_can_not_take_is_left_out(tmp_path: Path) -> None:
    columns: dict[str, tuple[int, object]] = {
        "observation.effort": (50, None),
        "observation.torque": (20, None),
        "action": (40, None),
    }
    proposal = accepted(make(tmp_path / "wide", columns, None, ("top",)))
    assert proposal.config.keys("state") == ["effort"] and proposal.config.max_action_dim == 40
    assert any("torque: left out" in reason for reason in proposal.reasons)


def test_a_gr1_and_what_is_beside_its_state(tmp_path: Path) -> None:
    folder = make_synthetic(tmp_path / "gr1", episodes=1)
    (folder / "meta/modality.json").unlink()
    proposal = accepted(folder)
    assert proposal.config.name == "fourier_gr1_arms_waist"
    assert "does not use left_leg, neck, right_leg" in " ".join(proposal.reasons)


def test_a_label_is_no_instruction_and_a_name_that_is_no_key_is_said(tmp_path: Path) -> None:
    folder = make_so101(tmp_path / "so101", ("left", "right"))
    file = folder / "meta/info.json"
    info = json.loads(file.read_text())
    info["features"]["annotation.human.validity"] = info["features"]["task_index"]
    file.write_text(json.dumps(info))
    proposal = propose(folder, "mine")
    assert proposal.config.language == "annotation.human.task_description"
    assert proposal.modality.column("annotation", "human.task_description") == "task_index"
    file.write_text(json.dumps(info).replace("images.left", "images.left "))
    with pytest.raises(DatasetError, match="'left ' is not a key"):
        propose(folder, "mine")


def test_v3_and_a_modality_that_is_there(tmp_path: Path) -> None:
    v2 = make_so101(tmp_path / "v2", ("laptop", "phone"))
    to_v3(v2, tmp_path / "v3")
    there = propose(tmp_path / "v3", "mine")
    assert there.config == propose(v2, "mine").config and there.modality == propose(v2, "mine").modality
    accepted(v2)
    again = propose(v2, "mine")
    assert not again.writes_modality and again.config == there.config


def test_cameras_that_can_not_be_trained_on_together_are_left_out(tmp_path: Path) -> None:
    folder = make_so101(tmp_path / "so101", ("front", "side", "depth", "tiny"))
    file = folder / "meta/info.json"
    info = json.loads(file.read_text())
    info["features"]["observation.images.depth"]["info"]["video.is_depth_map"] = True
    info["features"]["observation.images.tiny"]["shape"] = [24, 32, 3]
    file.write_text(json.dumps(info))
    proposal = accepted(folder)
    assert proposal.config.video == ("front", "side")
    told = " ".join(proposal.reasons)
    assert "depth: left out, it is a depth map." in told and "tiny: left out, 32x24 instead of 64x48" in told


@pytest.mark.parametrize(
    ("columns", "cameras", "says"),
    [
        ({"observation.state": (6, None)}, ("front",), "no column `action`"),
        ({"action": (6, None)}, (), "no colour camera"),
        ({"action": (6, None)}, ("front",), "no state of at most 64 dimensions; there are none"),
        ({"observation.state": (80, None), "action": (6, None)}, ("front",), "there are joints 80"),
    ],
)
def test_what_can_not_be_proposed(
    tmp_path: Path, columns: dict[str, tuple[int, object]], cameras: tuple[str, ...], says: str
) -> None:
    with pytest.raises(DatasetError, match=says):
        propose(make(tmp_path / "robot", columns, None, cameras), "mine")


@given(
    st.lists(st.text(max_size=12) | st.sampled_from([*ALOHA, *LIBERO, "x.vel", "kLeftHip"]), min_size=1, max_size=40)
)
def test_every_dimension_belongs_to_one_part(names: Sequence[str]) -> None:
    found = parts_of(names, len(names), "").slices
    places = [place for start, end in found.values() for place in range(start, end)]
    assert places == list(range(len(names)))
