"""Every data config against the reference's tables (3 and 3.1), typed out: keys, their order, their processing."""

from __future__ import annotations

import numpy as np
import pytest

from tests.trainer.data.transforms.test_state_action import metadata_of, raw_data
from trainer.data.configs import DATA_CONFIGS, get_data_config
from trainer.data.transforms.sample import SampleTransform

ARMS = "left_arm right_arm left_hand right_hand"
DESCRIPTION = "annotation.human.task_description"
ACTION_DESCRIPTION = "annotation.human.action.task_description"
GENIE = (
    "left_arm_joint_position right_arm_joint_position left_effector_position right_effector_position "
    "head_position waist_position"
)


def each(keys: str, processing: str) -> str:
    """Every one of ``keys`` with the same processing."""
    return " ".join(f"{key}:{processing}" for key in keys.split())


# name: (cameras, states, actions, annotation); a key alone is passed through, `a+b` is a rotation to a, then b.
TABLE: dict[str, tuple[str, str, str, str]] = {
    "so100": ("webcam", each("single_arm gripper", "min_max"), each("single_arm gripper", "min_max"), DESCRIPTION),
    "so100_dualcam": (
        "front wrist",
        each("single_arm gripper", "min_max"),
        each("single_arm gripper", "min_max"),
        DESCRIPTION,
    ),
    "unitree_g1": ("rs_view", each(ARMS, "min_max"), each(ARMS, "min_max"), DESCRIPTION),
    "unitree_g1_full_body": (
        "rs_view",
        each("left_leg right_leg waist left_arm left_hand right_arm right_hand", "min_max"),
        each("left_arm left_hand right_arm right_hand", "min_max"),
        DESCRIPTION,
    ),
    "fourier_gr1_arms_only": ("ego_view", each(ARMS, "sin_cos"), each(ARMS, "min_max"), ACTION_DESCRIPTION),
    "fourier_gr1_arms_waist": (
        "ego_view",
        each(f"{ARMS} waist", "sin_cos"),
        each(f"{ARMS} waist", "min_max"),
        "annotation.human.coarse_action",
    ),
    "fourier_gr1_full_upper_body": (
        "front_view",
        each(f"{ARMS} waist neck", "min_max"),
        each(f"{ARMS} waist neck", "min_max"),
        ACTION_DESCRIPTION,
    ),
    "bimanual_panda_gripper": (
        "right_wrist_view left_wrist_view front_view",
        "right_arm_eef_pos:min_max right_arm_eef_quat:rotation_6d right_gripper_qpos:min_max "
        "left_arm_eef_pos:min_max left_arm_eef_quat:rotation_6d left_gripper_qpos:min_max",
        "right_arm_eef_pos right_arm_eef_rot right_gripper_close:binary "
        "left_arm_eef_pos left_arm_eef_rot left_gripper_close:binary",
        ACTION_DESCRIPTION,
    ),
    "bimanual_panda_hand": (
        "right_wrist_view left_wrist_view ego_view",
        "right_arm_eef_pos:min_max right_arm_eef_quat:rotation_6d right_hand:min_max "
        "left_arm_eef_pos:min_max left_arm_eef_quat:rotation_6d left_hand:min_max",
        "right_arm_eef_pos right_arm_eef_rot right_hand:min_max left_arm_eef_pos left_arm_eef_rot left_hand:min_max",
        ACTION_DESCRIPTION,
    ),
    "single_panda_gripper": (
        "left_view right_view wrist_view",
        "end_effector_position_relative:min_max end_effector_rotation_relative:rotation_6d+min_max "
        "gripper_qpos:min_max base_position:min_max base_rotation:rotation_6d+min_max",
        "end_effector_position:min_max end_effector_rotation:min_max gripper_close:binary base_motion:min_max "
        "control_mode:binary",
        ACTION_DESCRIPTION,
    ),
    "oxe_droid": (
        "exterior_image_1 exterior_image_2 wrist_image",
        "eef_position:min_max eef_rotation:rotation_6d gripper_position:min_max",
        "eef_position_delta eef_rotation_delta:axis_angle gripper_position:binary",
        "annotation.language.language_instruction",
    ),
    "agibot_genie1": (
        "top_head hand_left hand_right",
        each(GENIE, "min_max"),
        each(f"{GENIE} robot_velocity", "min_max"),
        "annotation.language.action_text",
    ),
}


def test_the_table_is_complete() -> None:
    assert set(TABLE) == set(DATA_CONFIGS)


@pytest.mark.parametrize("name", TABLE)
def test_keys_order_and_dimensions(name: str) -> None:
    cameras, state, action, language = TABLE[name]
    config = get_data_config(name)
    assert list(config.video) == cameras.split()
    assert config.keys("state") == [entry.partition(":")[0] for entry in state.split()]
    assert config.keys("action") == [entry.partition(":")[0] for entry in action.split()]
    assert config.language == language
    assert (config.action_horizon, config.max_state_dim, config.max_action_dim) == (16, 64, 32)


def processed(values: np.ndarray, steps: str) -> np.ndarray:
    """What the table's words do to raw ``values``, by the definitions in the reference (3.3), without our code."""
    for step in steps.split("+") if steps else []:
        if step == "sin_cos":
            values = np.concatenate([np.sin(values), np.cos(values)], axis=1)
        elif step == "binary":
            values = (values > 0.5).astype(float)
        elif step == "rotation_6d" and values.shape[1] == 4:
            w, x, y, z = values.T
            first = [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)]
            second = [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)]
            values = np.stack([*first, *second], axis=1)
        elif step == "min_max" and "rotation_6d" not in steps:
            low, high = values.min(axis=0).astype(np.float32), values.max(axis=0).astype(np.float32)
            values = 2 * (values - low) / (high - low).astype(np.float64) - 1
    return values


@pytest.mark.parametrize("name", TABLE)
def test_processing(name: str) -> None:
    """Raw data through our transforms gives the reference's formulas, key by key, in the table's order."""
    _, state, action, _ = TABLE[name]
    config = get_data_config(name)
    raw = raw_data(config)
    transform = SampleTransform(config, metadata_of(config, raw), "gr1")
    for modality, entries, ours in (
        ("state", state, transform.state.forward(raw)),
        ("action", action, transform.action.forward(raw)),
    ):
        parts = [
            processed(raw[f"{modality}.{key}"], steps)
            for key, _, steps in (entry.partition(":") for entry in entries.split())
        ]
        np.testing.assert_allclose(ours, np.concatenate(parts, axis=1), atol=1e-6)
