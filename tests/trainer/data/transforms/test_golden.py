"""Our transforms against upstream's own outputs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from trainer.data.configs import get_data_config
from trainer.data.dataset import DatasetReader
from trainer.data.dataset_meta import DatasetMeta
from trainer.data.metadata import DatasetMetadata, build_metadata
from trainer.data.transforms.sample import SampleTransform

INDICES = (0, 415, 416, 1000, 2095)


@pytest.fixture(scope="module")
def upstream(golden: Path) -> tuple[dict, dict]:
    return load_file(golden / "transforms_raw.safetensors"), load_file(golden / "transforms_out.safetensors")


@pytest.fixture(scope="module")
def transform(golden: Path) -> SampleTransform:
    metadata = DatasetMetadata.model_validate_json((golden / "dataset_metadata.json").read_text())
    return SampleTransform(get_data_config("fourier_gr1_arms_only"), metadata, "new_embodiment")


@pytest.mark.parametrize("index", INDICES)
def test_transforms_equal_upstreams(upstream: tuple[dict, dict], transform: SampleTransform, index: int) -> None:
    raw = {key.removeprefix(f"{index}/"): value for key, value in upstream[0].items() if key.startswith(f"{index}/")}
    out = {key.removeprefix(f"{index}/"): value for key, value in upstream[1].items() if key.startswith(f"{index}/")}

    state, action = transform.state.forward(raw), transform.action.forward(raw)
    np.testing.assert_allclose(state, out["concat_state"], atol=1e-12)
    np.testing.assert_allclose(action, out["concat_action"], atol=1e-12)

    sample = transform.sample([raw["video.ego_view"][0]], "pick", state, action)
    np.testing.assert_array_equal(sample["images"], out["after_VideoToNumpy"])
    np.testing.assert_allclose(sample["state"], out["final_state"], atol=1e-6)
    np.testing.assert_array_equal(sample["state_mask"], out["final_state_mask"])
    np.testing.assert_allclose(sample["action"], out["final_action"], atol=1e-6)
    np.testing.assert_array_equal(sample["action_mask"], out["final_action_mask"])
    assert sample["embodiment_id"] == 31

    observed = transform.apply({**raw, "annotation.human.action.task_description": ["pick"]})
    np.testing.assert_array_equal(observed["images"], sample["images"])
    np.testing.assert_array_equal(observed["state"], sample["state"])
    assert observed["text"] == "pick" and "action" not in observed


def test_actions_come_back_in_raw_units(golden: Path, transform: SampleTransform) -> None:
    predicted = load_file(golden / "forward_A_sdpa.safetensors")["action_pred"]
    expected = load_file(golden / "action_unnormalised_A_sdpa.safetensors")
    unapplied = transform.unapply(predicted)
    assert list(unapplied) == [f"action.{key}" for key in ("left_arm", "right_arm", "left_hand", "right_hand")]
    for key, values in unapplied.items():
        np.testing.assert_allclose(values, expected[key], atol=1e-6)


def test_metadata_equals_upstreams(golden: Path, demo_dataset: Path) -> None:
    ours = build_metadata(DatasetMeta.load(demo_dataset), "new_embodiment").model_dump(mode="json")
    assert ours == json.loads((golden / "dataset_metadata.json").read_text())


@pytest.mark.parametrize("index", INDICES)
def test_raw_steps_equal_upstreams(
    upstream: tuple[dict, dict], golden: Path, demo_dataset: Path, index: int, demo_reader: DatasetReader
) -> None:
    described = {step["index"]: step for step in json.loads((golden / "transforms_meta.json").read_text())}[index]
    step = demo_reader.get_step_data(described["trajectory_id"], described["base_index"])
    assert step.pop("annotation.human.action.task_description") == described["language"]
    assert set(step) == {key.removeprefix(f"{index}/") for key in upstream[0] if key.startswith(f"{index}/")}
    for key, value in step.items():
        np.testing.assert_array_equal(value, upstream[0][f"{index}/{key}"], err_msg=key)
        assert value.dtype == upstream[0][f"{index}/{key}"].dtype
