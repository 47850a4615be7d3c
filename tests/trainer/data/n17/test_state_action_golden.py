"""States, actions, poses and statistics of N1.7 against upstream's own outputs (golden-n17/README.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from trainer.data.data_config import DataConfig, Feature
from trainer.data.modality_config import from_upstream
from trainer.data.n17 import poses, statistics
from trainer.data.n17.embodiments import registered
from trainer.data.n17.language import formalised
from trainer.data.n17.settings import ProcessorSettings
from trainer.data.n17.state_action import StateActionProcessor
from trainer.data.n17.statistics import KeyStatistics, TagStatistics

CASES = ["so101_official", "so101_absolute_minmax_h40", "so101_no_action_configs", "so101_meanstd_no_clip", "demo_gr1"]
_SLICES = {"single_arm": slice(0, 5), "gripper": slice(5, 6)}


@pytest.fixture(scope="module")
def cases(golden_n17: Path) -> dict[str, Any]:
    return json.loads((golden_n17 / "state_action_cases.json").read_text())


@pytest.fixture(scope="module")
def tensors(golden_n17: Path) -> dict[str, np.ndarray]:
    return load_file(golden_n17 / "state_action.safetensors")


def stored_statistics(golden: Path, case: str, slices: dict[str, slice], horizon: int) -> TagStatistics:
    """What upstream's script wrote, key by key."""
    name = "demo" if case.startswith("demo") else "so101"
    columns = json.loads((golden / "stats" / f"{name}_stats.json").read_text())
    relative_file = golden / "stats" / f"{name}_relative_stats_h{horizon}.json"
    groups = {
        group: {
            key: {stat: np.array(values)[part] for stat, values in columns[column].items()}
            for key, part in slices.items()
        }
        for group, column in (("state", "observation.state"), ("action", "action"))
    }
    if relative_file.is_file():
        groups["relative_action"] = json.loads(relative_file.read_text())
    return statistics.read({"new_embodiment": groups}, "golden")["new_embodiment"]


def demo_slices(demo: Path, config: DataConfig) -> dict[str, slice]:
    modality = json.loads((demo / "meta/modality.json").read_text())["state"]
    return {
        feature.key: slice(modality[feature.key]["start"], modality[feature.key]["end"]) for feature in config.state
    }


@pytest.fixture(params=CASES)
def case(
    request: pytest.FixtureRequest, golden_n17: Path, cases: dict[str, Any]
) -> tuple[str, dict[str, Any], StateActionProcessor]:
    found = cases[request.param]
    config = from_upstream(found["modality_config"], "golden", request.param)
    demo = request.param.startswith("demo")
    slices = demo_slices(request.getfixturevalue("demo_dataset"), config) if demo else _SLICES
    settings = ProcessorSettings(**found["processor_kwargs"], upstream_exact=True)
    known = stored_statistics(golden_n17, request.param, slices, config.action_horizon)
    return request.param, found, StateActionProcessor(config, settings, known)


def group(tensors: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def test_states_and_actions(
    case: tuple[str, dict[str, Any], StateActionProcessor], tensors: dict[str, np.ndarray]
) -> None:
    name, found, processor = case
    for number, step in enumerate(found["steps"]):
        want = group(tensors, f"{name}/{number}/")
        state, action = group(want, "raw.state."), group(want, "raw.action.")
        for key, values in group(want, "relative.action.").items():
            np.testing.assert_allclose(processor.relative_action(action, state)[key], values, atol=1e-6)
        for key, values in group(want, "norm.action.").items():
            np.testing.assert_allclose(processor.normalised_action(action, state)[key], values, atol=1e-6)
        np.testing.assert_allclose(processor.state(state), want["state"], atol=1e-6)
        ours, mask = processor.action(action, state)
        np.testing.assert_allclose(ours, want["action"], atol=1e-6)
        np.testing.assert_array_equal(mask, want["action_mask"])
        assert (ours.dtype, mask.dtype, processor.state(state).dtype) == (np.float32,) * 3
        decoded = processor.decode(want["pred"][None], {key: values[None] for key, values in state.items()})
        wanted = group(want, "decoded.")
        assert list(decoded) == processor.config.keys("action") and set(decoded) == set(wanted)
        for key, values in wanted.items():
            np.testing.assert_allclose(decoded[key], values, atol=1e-5)
        round_trip = processor.decode(ours[None], {key: values[None] for key, values in state.items()})
        for key, error in step["round_trip_error"].items():
            assert np.abs(round_trip[key][0] - action[key]).max() == pytest.approx(error, abs=1e-5)
        assert f"<|vision_end|>{formalised(step['text'])}<|im_end|>" in step["chat_text"]


def test_z_scores_of_actions_come_back_where_upstream_cuts_them_off(
    golden_n17: Path, cases: dict[str, Any], tensors: dict[str, np.ndarray], demo_dataset: Path
) -> None:
    found = cases["demo_gr1"]
    config = from_upstream(found["modality_config"], "golden", "demo_gr1")
    known = stored_statistics(golden_n17, "demo", demo_slices(demo_dataset, config), 16)
    processor = StateActionProcessor(config, ProcessorSettings(**found["processor_kwargs"]), known)
    want = group(tensors, "demo_gr1/0/")
    state, action = group(want, "raw.state."), group(want, "raw.action.")
    decoded = processor.decode(processor.action(action, state)[0], state)
    np.testing.assert_allclose(decoded["right_hand"], action["right_hand"], atol=1e-5)


def test_instructions(golden_n17: Path) -> None:
    for text, want in json.loads((golden_n17 / "image_cases.json").read_text())["formalize_language"].items():
        assert formalised(text) == want


@pytest.fixture(scope="module")
def eef(golden_n17: Path) -> dict[str, np.ndarray]:
    return load_file(golden_n17 / "eef.safetensors")


@pytest.mark.parametrize("pose", ["xyz_rot6d", "xyz_rotvec"])
def test_poses(eef: dict[str, np.ndarray], pose: Any) -> None:
    action, state = eef[f"{pose}/action"], eef[f"{pose}/state"]
    relative = poses.relative(action, state, pose)
    np.testing.assert_allclose(relative, eef[f"{pose}/relative"], atol=1e-6)
    np.testing.assert_allclose(poses.absolute(relative, state, pose), eef[f"{pose}/absolute"], atol=1e-6)


def test_a_rotation_need_not_be_orthonormal(eef: dict[str, np.ndarray]) -> None:
    ours = poses.absolute(eef["rot6d_not_orthonormal/action"], eef["xyz_rot6d/state"], "xyz_rot6d")
    np.testing.assert_allclose(ours, eef["rot6d_not_orthonormal/absolute_from_relative"], atol=1e-6)


def test_a_pose_relative_to_itself_is_the_identity(eef: dict[str, np.ndarray]) -> None:
    state = eef["xyz_rot6d/state"]
    np.testing.assert_allclose(poses.relative(state, state, "xyz_rot6d"), [0, 0, 0, 1, 0, 0, 0, 1, 0], atol=1e-6)


def test_a_whole_embodiment_with_poses(golden_n17: Path, eef: dict[str, np.ndarray]) -> None:
    tag = "oxe_droid_relative_eef_relative_joint"
    known = json.loads((golden_n17 / "stats/droid_synthetic_statistics.json").read_text())
    case = json.loads((golden_n17 / "eef_cases.json").read_text())["droid"]
    config = registered()[tag]
    assert from_upstream(case["modality_config"], tag, "golden") == config
    processor = StateActionProcessor(config, ProcessorSettings(), statistics.read(known, "golden")[tag])
    for number in range(3):
        want = group(eef, f"droid/{number}/")
        state, action = group(want, "state."), group(want, "action.")
        for key, values in group(want, "norm.action.").items():
            np.testing.assert_allclose(processor.normalised_action(action, state)[key], values, atol=1e-6)
        joined = processor.state(state)
        wanted = group(want, "norm.state.")
        np.testing.assert_allclose(
            joined[:, :17], np.concatenate([wanted[k] for k in config.keys("state")], -1), atol=1e-6
        )
        predicted = np.zeros((1, 40, 132))
        predicted[..., :17] = np.concatenate([want[f"pred.{key}"] for key in config.keys("action")], axis=-1)
        decoded = processor.decode(predicted, {key: values[None] for key, values in state.items()})
        for key, values in group(want, "decoded.").items():
            np.testing.assert_allclose(decoded[key], values, atol=1e-5)


def test_statistics_of_two_datasets_are_merged(golden_n17: Path) -> None:
    case = json.loads((golden_n17 / "merge_statistics.json").read_text())
    parts = [KeyStatistics(**each["all"]) for each in case["inputs_state_action"]]
    assert_equal(statistics.merged(parts, case["weights"]), case["merged"]["all"])
    relative = [KeyStatistics(**each) for each in case["relative_first_step_inputs"]]
    assert_equal(statistics.merged(relative, case["weights"]), case["relative_merged"]["single_arm"])


def assert_equal(ours: KeyStatistics, want: dict[str, Any], rtol: float = 1e-6, atol: float = 1e-6) -> None:
    for name, values in ours.plain().items():
        np.testing.assert_allclose(values, want[name], rtol=rtol, atol=atol, err_msg=name)


@pytest.mark.parametrize("horizon", [8, 16])
def test_relative_statistics_are_those_of_upstreams_script(golden_n17: Path, horizon: int) -> None:
    import pyarrow.parquet as pq

    want = json.loads((golden_n17 / f"stats/so101_relative_stats_h{horizon}.json").read_text())
    episodes = []
    for file in sorted((golden_n17 / "so101_tiny/data/chunk-000").glob("*.parquet")):
        table = pq.read_table(file)
        action, state = (np.stack(table[column].to_numpy())[:, :5] for column in ("action", "observation.state"))
        episodes.append((action, state))
    ours = statistics.of_relative(Feature("single_arm", relative_to="single_arm"), episodes, horizon, "so101")
    assert ours.shape == (horizon, 5)
    assert_equal(ours, want["single_arm"], rtol=1e-5, atol=1e-5)
