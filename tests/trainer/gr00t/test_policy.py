"""The policy: upstream's dictionaries in and out, on a checkpoint of the tiny model."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from trainer.data.configs import get_data_config
from trainer.data.dataset import DatasetReader
from trainer.data.frames import FrameStore
from trainer.data.metadata import DatasetMetadata, build_metadata, write_metadata
from trainer.data.synthetic import make_synthetic
from trainer.errors import UsageError
from trainer.gr00t.n15.config import GR00TN15Config
from trainer.gr00t.n15.model import GR00TN15
from trainer.gr00t.n15.processor import EagleProcessor
from trainer.gr00t.policy import Policy

CONFIG = "fourier_gr1_arms_only"
CONFIG_TEXT = "annotation.human.action.task_description"
WIDTHS = {"action.left_arm": 7, "action.right_arm": 7, "action.left_hand": 6, "action.right_hand": 6}


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> DatasetReader:
    folder = tmp_path_factory.mktemp("data")
    dataset = make_synthetic(folder / "synthetic", episodes=1)
    return DatasetReader(dataset, get_data_config(CONFIG), FrameStore(folder / "frames"))


@pytest.fixture(scope="module")
def checkpoint(tiny: Path, reader: DatasetReader, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "checkpoint-1"
    shutil.copytree(tiny, folder)
    write_metadata(folder / "experiment_cfg", build_metadata(reader.meta, "new_embodiment"))
    return folder


@pytest.fixture(scope="module")
def policy(checkpoint: Path) -> Policy:
    return Policy(checkpoint, CONFIG, "new_embodiment", device="cpu")


def act(policy: Policy, observation: dict[str, Any]) -> dict[str, np.ndarray]:
    torch.manual_seed(0)
    return policy.get_action(observation)


def test_one_observation(policy: Policy, reader: DatasetReader) -> None:
    actions = act(policy, reader.get_step_data(0, 3))
    assert {name: value.shape for name, value in actions.items()} == {k: (16, width) for k, width in WIDTHS.items()}
    assert all(np.isfinite(value).all() for value in actions.values())


def test_a_batch_of_one_is_the_same_with_one_more_axis(policy: Policy, reader: DatasetReader) -> None:
    step = reader.get_step_data(0, 3)
    batch = {name: [value[0]] if isinstance(value, list) else value[None] for name, value in step.items()}
    alone, batched = act(policy, step), act(policy, batch)
    for name, value in batched.items():
        assert value.shape == (1, 16, WIDTHS[name])
        np.testing.assert_array_equal(value[0], alone[name])


def test_samples_of_a_batch_are_told_apart(policy: Policy, reader: DatasetReader) -> None:
    steps = [reader.get_step_data(0, index) for index in (0, 20)]
    batch: dict[str, Any] = {
        name: np.stack([step[name] for step in steps]) for name in steps[0] if name.startswith(("video.", "state."))
    }
    batch[policy.data_config.language] = [step[policy.data_config.language][0] for step in steps]
    actions = act(policy, batch)
    assert {value.shape[0] for value in actions.values()} == {2}
    del batch["state.left_arm"]
    with pytest.raises(UsageError, match=r"lacks state\.left_arm"):
        policy.get_action(batch)
    with pytest.raises(UsageError, match="batch sizes differ"):
        policy.get_action({**batch, policy.data_config.language: ["one"]})


def test_denoising_steps_and_horizon(checkpoint: Path, reader: DatasetReader) -> None:
    longer = replace(get_data_config(CONFIG), action_horizon=24)
    policy = Policy(checkpoint, longer, "new_embodiment", denoising_steps=2, device="cpu")
    calls = []
    policy.model.action_head.model.register_forward_hook(lambda *_: calls.append(1))
    assert act(policy, reader.get_step_data(0, 0))["action.left_arm"].shape == (24, 7)
    assert len(calls) == 2


@pytest.fixture(scope="module")
def upstreams_checkpoint(
    golden: Path, golden_config: GR00TN15Config, golden_state: dict, processor: EagleProcessor, tmp_path_factory: Any
) -> Path:
    """The model upstream's code was run with, as a checkpoint with upstream's metadata."""
    folder = tmp_path_factory.mktemp("checkpoints") / "upstream"
    model = GR00TN15(golden_config)
    model.load_state_dict(golden_state)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    document = json.loads((golden / "dataset_metadata.json").read_text())
    write_metadata(folder / "experiment_cfg", DatasetMetadata.model_validate(document))
    return folder


def test_from_camera_images_to_upstreams_actions(
    golden: Path, demo_dataset: Path, upstreams_checkpoint: Path, tmp_path: Path
) -> None:
    """Batch A of the golden tensors from the dataset's files to actions in raw units, together and one by one."""
    reader = DatasetReader(demo_dataset, get_data_config(CONFIG), FrameStore(tmp_path))
    policy = Policy(upstreams_checkpoint, CONFIG, "new_embodiment", device="cpu")
    steps = [reader.get_step_data(0, frame) for frame in (100, 250)]
    noise = load_file(golden / "forward_A_sdpa.safetensors")["get_action_noise"].numpy()
    want = load_file(golden / "action_unnormalised_A_sdpa.safetensors")
    batch = {name: np.stack([step[name] for step in steps]) for name in steps[0] if not name.startswith("annotation")}
    together = policy.get_action({**batch, CONFIG_TEXT: [step[CONFIG_TEXT][0] for step in steps]}, noise)
    assert list(together) == list(WIDTHS)
    for name, values in together.items():
        np.testing.assert_allclose(values, want[name].numpy(), atol=2e-5, rtol=0)
    for row, step in enumerate(steps):
        for name, values in policy.get_action(step, noise[row]).items():
            np.testing.assert_allclose(values, want[name][row].numpy(), atol=2e-5, rtol=0)
    assert not np.allclose(policy.get_action(steps[0], noise[1])["action.right_arm"], want["action.right_arm"][0])


def test_refusals(checkpoint: Path, tiny: Path, policy: Policy, reader: DatasetReader, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"noise is \[8, 32\]"):
        policy.get_action(reader.get_step_data(0, 0), np.zeros((8, 32)))
    with pytest.raises(UsageError, match="not gr1"):
        Policy(checkpoint, CONFIG, "gr1")
    with pytest.raises(UsageError, match=r"metadata\.json: missing"):
        Policy(tiny, CONFIG, "new_embodiment")
    with pytest.raises(UsageError, match="denoising_steps is 0"):
        Policy(checkpoint, CONFIG, "new_embodiment", denoising_steps=0)
    with pytest.raises(UsageError, match="no model folder"):
        Policy(tmp_path / "none", CONFIG, "new_embodiment")
