"""Data configs: which cameras, states and actions of a dataset a policy uses, and how they are normalised.

The same sixteen-step configurations as upstream's ``gr00t/experiment/data_config.py``, declared instead of programmed;
keys, their order and their processing are upstream's, because the order decides what each projector input means.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from trainer.data.dataset_meta import Modality, RotationType
from trainer.errors import PippaError, UsageError

Normalisation = Literal["min_max", "q99", "mean_std", "scale", "binary"]

PROJECTOR_INDEX: dict[str, int] = {"gr1": 24, "oxe_droid": 17, "agibot_genie1": 26, "new_embodiment": 31}
"""Embodiment tag to the slot of the action head's per-embodiment weights (``gr00t/data/embodiment_tags.py``)."""


@dataclass(frozen=True)
class Feature:
    """One state or action key and what is done to it: rotation first, then normalisation, or sin and cos alone."""

    key: str
    normalise: Normalisation | None = None
    rotation: RotationType | None = None
    """Representation to turn the rotation into; the one it has is ``rotation_type`` of ``modality.json``."""
    sin_cos: bool = False
    """Replace angles by their sines, then their cosines: twice the dimensions. States only, as it has no inverse."""

    def __post_init__(self) -> None:
        for name, value, known in (
            ("normalise", self.normalise, get_args(Normalisation)),
            ("rotation", self.rotation, get_args(RotationType)),
        ):
            if value is not None and value not in known:
                raise UsageError(f"{name}={value!r} of the key {self.key}.", f"There are {', '.join(known)}.")
        if self.sin_cos and (self.normalise or self.rotation):
            raise UsageError(
                f"The key {self.key} is to become sines and cosines, and something else besides.",
                "sin_cos stands alone: sines and cosines lie in [-1, 1] already.",
            )


@dataclass(frozen=True)
class DataConfig:
    """What a policy sees and does. Keys are those of ``modality.json``, without ``video.``, ``state.``, ``action.``."""

    name: str
    video: tuple[str, ...]
    state: tuple[Feature, ...]
    action: tuple[Feature, ...]
    language: str
    """Full name of the annotation the instruction comes from, such as ``annotation.human.task_description``."""
    action_horizon: int = 16
    """Steps predicted at once; the action at step t covers t to t + action_horizon - 1."""
    max_state_dim: int = 64
    max_action_dim: int = 32
    """Widths states and actions are zero-padded to: those of the model's encoders."""

    def __post_init__(self) -> None:
        if isinstance(self.video, str) or not all(isinstance(key, str) for key in self.video):
            raise UsageError(f"video of the data config {self.name} is {self.video!r}.", 'Write a tuple: ("front",).')
        for modality in ("state", "action"):
            features = getattr(self, modality)
            if not isinstance(features, tuple | list) or not all(isinstance(each, Feature) for each in features):
                raise UsageError(
                    f"{modality} of the data config {self.name} is {features!r}.",
                    'Write a tuple of features: (Feature("single_arm", "min_max"),).',
                )
        for modality in ("video", "state", "action"):
            keys = self.keys(modality)
            if wrong := [key for key in keys if key.startswith(f"{modality}.") or keys.count(key) > 1]:
                raise UsageError(
                    f"{modality} of the data config {self.name} has {wrong[0]}.",
                    f"Write each key once, as in modality.json, without `{modality}.`.",
                )
        if not self.language.startswith("annotation."):
            raise UsageError(
                f"language of the data config {self.name} is {self.language!r}.",
                "Write the annotation's full name, such as annotation.human.task_description.",
            )
        if min(self.action_horizon, self.max_state_dim, self.max_action_dim) < 1:
            raise UsageError(f"A size of the data config {self.name} is below 1.", "Leave the sizes at their defaults.")

    def keys(self, modality: str) -> list[str]:
        """The keys of ``video``, ``state``, ``action`` or ``annotation`` this config uses, in order."""
        if modality == "annotation":
            return [self.language.removeprefix("annotation.")]
        if modality == "video":
            return list(self.video)
        return [feature.key for feature in getattr(self, modality)]

    def missing(self, modality: Modality) -> dict[str, list[str]]:
        """The keys this config needs and ``modality`` lacks, by modality; empty when the dataset fits."""
        wanted = {name: self.keys(name) for name in ("video", "state", "action", "annotation")}
        absent = {name: [key for key in keys if key not in modality.keys(name)] for name, keys in wanted.items()}
        return {name: keys for name, keys in absent.items() if keys}


def _features(keys: str, normalise: Normalisation | None = None, sin_cos: bool = False) -> tuple[Feature, ...]:
    return tuple(Feature(key, normalise, sin_cos=sin_cos) for key in keys.split())


def _min_max(
    name: str, video: str, state: str, action: str | None = None, *, language: str = "human.task_description"
) -> DataConfig:
    """Every state and action key scaled to [-1, 1]; actions have the states' keys unless named."""
    return DataConfig(
        name=name,
        video=tuple(video.split()),
        state=_features(state, "min_max"),
        action=_features(action or state, "min_max"),
        language=f"annotation.{language}",
    )


def _fourier_arms(name: str, keys: str, language: str) -> DataConfig:
    """GR1 joints: sines and cosines of the state, because joint angles wrap; actions scaled to [-1, 1]."""
    return DataConfig(
        name=name,
        video=("ego_view",),
        state=_features(keys, sin_cos=True),
        action=_features(keys, "min_max"),
        language=f"annotation.{language}",
    )


def _bimanual_panda(name: str, cameras: str, hand_state: str, hand_action: str, normalise: Normalisation) -> DataConfig:
    state, action = [], []
    for side in ("right", "left"):
        state += [
            Feature(f"{side}_arm_eef_pos", "min_max"),
            Feature(f"{side}_arm_eef_quat", rotation="rotation_6d"),
            Feature(f"{side}_{hand_state}", "min_max"),
        ]
        action += [
            Feature(f"{side}_arm_eef_pos"),
            Feature(f"{side}_arm_eef_rot"),
            Feature(f"{side}_{hand_action}", normalise),
        ]
    return DataConfig(name, tuple(cameras.split()), tuple(state), tuple(action), f"annotation.{_TASK}")


_ARMS_HANDS = "left_arm right_arm left_hand right_hand"
_TASK = "human.action.task_description"
_GENIE = (
    "left_arm_joint_position right_arm_joint_position left_effector_position right_effector_position "
    "head_position waist_position"
)

DATA_CONFIGS: dict[str, DataConfig] = {
    config.name: config
    for config in (
        _fourier_arms("fourier_gr1_arms_only", _ARMS_HANDS, _TASK),
        _fourier_arms("fourier_gr1_arms_waist", f"{_ARMS_HANDS} waist", "human.coarse_action"),
        _min_max("fourier_gr1_full_upper_body", "front_view", f"{_ARMS_HANDS} waist neck", language=_TASK),
        _min_max("so100", "webcam", "single_arm gripper"),
        _min_max("so100_dualcam", "front wrist", "single_arm gripper"),
        _min_max("unitree_g1", "rs_view", _ARMS_HANDS),
        _min_max(
            "unitree_g1_full_body",
            "rs_view",
            "left_leg right_leg waist left_arm left_hand right_arm right_hand",
            "left_arm left_hand right_arm right_hand",
        ),
        _bimanual_panda(
            "bimanual_panda_gripper",
            "right_wrist_view left_wrist_view front_view",
            "gripper_qpos",
            "gripper_close",
            "binary",
        ),
        _bimanual_panda("bimanual_panda_hand", "right_wrist_view left_wrist_view ego_view", "hand", "hand", "min_max"),
        DataConfig(
            name="single_panda_gripper",
            video=("left_view", "right_view", "wrist_view"),
            state=(
                Feature("end_effector_position_relative", "min_max"),
                Feature("end_effector_rotation_relative", "min_max", rotation="rotation_6d"),
                Feature("gripper_qpos", "min_max"),
                Feature("base_position", "min_max"),
                Feature("base_rotation", "min_max", rotation="rotation_6d"),
            ),
            action=(
                Feature("end_effector_position", "min_max"),
                Feature("end_effector_rotation", "min_max"),
                Feature("gripper_close", "binary"),
                Feature("base_motion", "min_max"),
                Feature("control_mode", "binary"),
            ),
            language=f"annotation.{_TASK}",
        ),
        DataConfig(
            name="oxe_droid",
            video=("exterior_image_1", "exterior_image_2", "wrist_image"),
            state=(
                Feature("eef_position", "min_max"),
                Feature("eef_rotation", rotation="rotation_6d"),
                Feature("gripper_position", "min_max"),
            ),
            action=(
                Feature("eef_position_delta"),
                Feature("eef_rotation_delta", rotation="axis_angle"),
                Feature("gripper_position", "binary"),
            ),
            language="annotation.language.language_instruction",
        ),
        _min_max(
            "agibot_genie1",
            "top_head hand_left hand_right",
            _GENIE,
            f"{_GENIE} robot_velocity",
            language="language.action_text",
        ),
    )
}


def get_data_config(name: str) -> DataConfig:
    """The data config ``name``, or your own: ``module.path:NAME`` of a ``DataConfig``, or of a class or function that
    returns one when called without arguments. The current folder is searched first, as upstream does.

    Upstream's own classes, with ``modality_config()`` and ``transform()``, are refused: they are programs over
    Isaac-GR00T's transform classes, which the native engine does not have. Raises ``UsageError`` that shows the
    declaration to write instead.
    """
    if name in DATA_CONFIGS:
        return DATA_CONFIGS[name]
    if ":" not in name:
        near = difflib.get_close_matches(name, DATA_CONFIGS, n=1)
        raise UsageError(
            f"No data config is called {name!r}.",
            (f"Did you mean {near[0]}? " if near else "")
            + f"There are {', '.join(DATA_CONFIGS)}, and module.path:NAME for one of your own.",
        )
    module_name, _, attribute = name.partition(":")
    if sys.path[0] != str(Path.cwd()):
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module_name), attribute)
        config = found() if callable(found) else found
    except PippaError:  # a declaration that can't be meant
        raise
    except Exception as error:  # the user's module may raise anything
        if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == "gr00t":
            raise _upstream(name, f"imports {error.name}, which is Isaac-GR00T's") from error
        raise UsageError(
            f"The data config {name} can't be loaded: {error.__class__.__name__}: {error}",
            "Name a module that Python finds from this folder, and a DataConfig in it.",
        ) from error
    if not isinstance(config, DataConfig):
        if hasattr(config, "modality_config") and hasattr(config, "transform"):
            raise _upstream(name, "is an Isaac-GR00T class, not a DataConfig")
        raise UsageError(f"The data config {name} is {type(config).__name__}, not a DataConfig.", EXAMPLE)
    return config


EXAMPLE = """Declare the same keys like this (docs/data.md says more):
    from trainer.data.configs import DataConfig, Feature

    MY_ARM = DataConfig(
        name="my_arm",
        video=("front", "wrist"),
        state=(Feature("single_arm", "min_max"), Feature("gripper", "min_max")),
        action=(Feature("single_arm", "min_max"), Feature("gripper", "min_max")),
        language="annotation.human.task_description",
    )"""
"""What an external data config looks like."""


def _upstream(name: str, what: str) -> UsageError:
    return UsageError(f"The data config {name} {what}; the native engine runs declarations, not transforms.", EXAMPLE)
