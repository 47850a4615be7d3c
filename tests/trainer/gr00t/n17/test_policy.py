"""From a dataset to a checkpoint to actions: N1.7's parts together, trained on a CPU."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.n17 import ARM as ONE_ARM
from trainer.data.frames import FrameStore
from trainer.data.n17 import processor_files
from trainer.data.n17.collate import Collator
from trainer.data.n17.dataset import TrainingDataset
from trainer.data.synthetic import TASK_COLUMN, make_synthetic
from trainer.errors import UsageError
from trainer.gr00t.n17.model import Gr00tN1d7
from trainer.gr00t.n17.processor import QwenProcessor
from trainer.gr00t.n17.tiny import make_tiny_base_model
from trainer.gr00t.policy import Policy
from trainer.gr00t.weights import save_checkpoint

TAG = "new_embodiment"
ARM = replace(ONE_ARM, name=TAG)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> TrainingDataset:
    folder = tmp_path_factory.mktemp("data")
    tiny = make_tiny_base_model(folder / "tiny")
    data = make_synthetic(folder / "synthetic", episodes=1)
    frames = FrameStore(folder / "frames")
    return TrainingDataset([data], ARM, processor_files.read(tiny).settings, 10, frames=frames, augment=False)


@pytest.fixture(scope="module")
def checkpoints(dataset: TrainingDataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Before and after 80 steps of training."""
    folder = tmp_path_factory.mktemp("models")
    tiny = make_tiny_base_model(folder / "tiny")
    model, processor = Gr00tN1d7.from_pretrained(tiny), QwenProcessor.from_directory(tiny)
    files = processor_files.read(tiny).trained_on(TAG, ARM, dataset.statistics)

    def saved(name: str) -> Path:
        save_checkpoint(model, folder / name)
        processor.save_pretrained(folder / name)
        files.save(folder / name)
        return folder / name

    before = saved("before")
    torch.manual_seed(0)
    order = torch.Generator().manual_seed(0)
    collate = Collator(processor)
    trained = [p for p in model.train().parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-3, betas=(0.9, 0.999))
    for _ in range(80):
        chosen = torch.randint(len(dataset), (8,), generator=order).tolist()
        loss = model(collate([dataset[index] for index in chosen]))["loss"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
    model.eval()
    return before, saved("after")


def observation(dataset: TrainingDataset, row: int) -> dict[str, Any]:
    episode = dataset._episodes[0]
    return {
        "video.ego_view": dataset._frames(episode, row)[0][None],
        **{f"state.{key}": values[row : row + 1] for key, values in episode.state.items()},
        TASK_COLUMN: [episode.texts[row]],
    }


def error(policy: Policy, dataset: TrainingDataset) -> float:
    """Of the actions, against the recorded ones in the robot's units, over some steps."""
    episode = dataset._episodes[0]
    noise = np.random.default_rng(0).normal(size=(40, 32)).astype(np.float32)
    errors = []
    for row in range(0, len(dataset), 8):
        actions = policy.get_action(observation(dataset, row), noise)
        errors.append(np.abs(actions["action.right_arm"] - episode.action["right_arm"][row : row + 16]).mean())
    return float(np.mean(errors))


@pytest.mark.slow
def test_what_is_trained_acts_better(dataset: TrainingDataset, checkpoints: tuple[Path, Path]) -> None:
    before, after = (error(Policy(folder, embodiment_tag=TAG, device="cpu"), dataset) for folder in checkpoints)
    assert after < 0.7 * before


def test_the_checkpoint_says_how_it_is_read(dataset: TrainingDataset, checkpoints: tuple[Path, Path]) -> None:
    policy = Policy(checkpoints[1], embodiment_tag="NEW_EMBODIMENT", device="cpu")
    assert policy.data_config == ARM
    noise = np.zeros((40, 32), np.float32)
    actions = policy.get_action(observation(dataset, 3), noise)
    assert {name: values.shape for name, values in actions.items()} == {
        "action.right_arm": (16, 7),
        "action.right_hand": (16, 6),
    }
    again = policy.get_action(observation(dataset, 3), noise)
    assert all(np.array_equal(actions[name], again[name]) for name in actions)
    with pytest.raises(UsageError, match=r"noise is \[1, 2\]"):
        policy.get_action(observation(dataset, 3), np.zeros((1, 2)))
    with pytest.raises(UsageError, match="no modality config of libero_sim"):
        Policy(checkpoints[1], embodiment_tag="libero_sim", device="cpu")


def test_a_slot_that_the_model_has_not_is_refused(checkpoints: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(checkpoints[0], tmp_path, dirs_exist_ok=True)
    (tmp_path / processor_files.EMBODIMENTS).write_text(json.dumps({TAG: 99}))
    with pytest.raises(UsageError, match="the slot 99; the model has 32"):
        Policy(tmp_path, embodiment_tag=TAG, device="cpu")


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"video.ego_view": None}, r"lacks video\.ego_view"),
        ({"video.ego_view": np.zeros((2, 8, 8, 3), np.uint8)}, r"It must be uint8 \[1, height, width, 3\]"),
        ({"video.ego_view": np.zeros((1, 8, 8, 3))}, r"video\.ego_view is float64"),
        ({"state.right_arm": np.zeros((2, 7))}, r"state\.right_arm is \[2, 7\]"),
        ({"state.right_arm": np.zeros((1, 6))}, r"state\.right_arm has 6 dimensions, not 7"),
    ],
)
def test_an_observation_of_another_shape_is_refused(
    dataset: TrainingDataset, checkpoints: tuple[Path, Path], changed: dict[str, Any], problem: str
) -> None:
    policy = Policy(checkpoints[0], embodiment_tag=TAG, device="cpu")
    given = {name: value for name, value in {**observation(dataset, 0), **changed}.items() if value is not None}
    with pytest.raises(UsageError) as refused:
        policy.get_action(given)
    assert re.search(problem, str(refused.value))
