"""Training samples of N1.7: which steps, which frames, which statistics; against upstream's loader where it is here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.support.n17 import ARM
from trainer.data.data_config import Feature
from trainer.data.n17.dataset import TrainingDataset
from trainer.data.n17.embodiments import registered
from trainer.data.n17.settings import ProcessorSettings
from trainer.data.synthetic import make_synthetic
from trainer.errors import DatasetError, UsageError

PLAIN = ProcessorSettings(shortest_image_edge=64)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_synthetic(tmp_path_factory.mktemp("data") / "synthetic", episodes=2)


def lengths(folder: Path) -> list[int]:
    return [json.loads(line)["length"] for line in (folder / "meta/episodes.jsonl").read_text().splitlines()]


def test_a_step_without_its_whole_horizon_is_no_sample(synthetic: Path) -> None:
    dataset = TrainingDataset([synthetic], ARM, PLAIN, 10)
    assert len(dataset) == sum(length - 15 for length in lengths(synthetic))
    last = dataset[len(dataset) - 1]
    assert last["action_mask"][:16].any() and not last["action_mask"][16:].any()
    with pytest.raises(IndexError):
        dataset[len(dataset)]
    with pytest.raises(DatasetError, match="no episode is as long as the 100 steps"):
        TrainingDataset([synthetic], replace(ARM, action_horizon=100), PLAIN, 10)


def test_a_horizon_above_the_models_is_refused(synthetic: Path) -> None:
    with pytest.raises(UsageError, match="predicts 50 steps; the model takes 40"):
        TrainingDataset([synthetic], replace(ARM, action_horizon=50), PLAIN, 10)


def test_an_action_relative_to_a_state_of_another_width_is_refused(synthetic: Path) -> None:
    config = replace(ARM, action=(Feature("right_arm", relative_to="right_hand"),))
    with pytest.raises(DatasetError, match=r"action\.right_arm has 7 dimensions, but state\.right_hand.* has 6"):
        TrainingDataset([synthetic], config, PLAIN, 10)


def test_the_instruction_may_be_the_dataset_s_task(synthetic: Path, tmp_path: Path) -> None:
    """Of each row, not one of the episode's by chance: a GR1's label is among those."""
    texts = [step["text"] for step in TrainingDataset([synthetic], replace(ARM, language="task"), PLAIN, 10)]
    assert texts == [step["text"] for step in TrainingDataset([synthetic], ARM, PLAIN, 10)]
    assert all(text.startswith("pick the ") for text in texts)


def test_actions_come_back(synthetic: Path) -> None:
    dataset = TrainingDataset([synthetic], ARM, PLAIN, 10)
    episode = dataset._episodes[0]
    sample = dataset[7]
    decoded = dataset.processor.decode(sample["action"], {key: value[7:8] for key, value in episode.state.items()})
    np.testing.assert_allclose(decoded["action.right_arm"], episode.action["right_arm"][7:23], atol=1e-5)
    assert sample["text"] == episode.texts[7] and sample["embodiment_id"] == 10


def test_samples_are_known_from_their_index_and_epoch(synthetic: Path) -> None:
    jitter = PLAIN.model_copy(update={"color_jitter_params": {"brightness": 0.3}})
    first, second = (TrainingDataset([synthetic], ARM, jitter, 10) for _ in range(2))
    np.testing.assert_array_equal(first[3]["images"][0], second[3]["images"][0])
    before = first[3]["images"][0]
    first.set_epoch(1)
    assert not np.array_equal(first[3]["images"][0], before)
    plain = TrainingDataset([synthetic], ARM, jitter, 10, augment=False)
    shown = plain[3]["images"][0]
    plain.set_epoch(1)
    np.testing.assert_array_equal(plain[3]["images"][0], shown)


def test_before_an_episodes_start_is_its_first_frame(synthetic: Path) -> None:
    """In every episode, not those of the one before it."""
    dataset = TrainingDataset([synthetic], replace(ARM, video_delta_indices=(-15, 0)), PLAIN, 10, augment=False)
    start = lengths(synthetic)[0] - 15
    for index in (0, start):
        now, early = dataset[index]["images"], dataset[index + 3]["images"]
        np.testing.assert_array_equal(now[0], now[1])
        np.testing.assert_array_equal(early[0], now[1])
        np.testing.assert_array_equal(dataset[index + 20]["images"][0], dataset[index + 5]["images"][1])
    assert not np.array_equal(dataset[0]["images"][1], dataset[start]["images"][1])


def test_two_datasets_share_their_statistics(synthetic: Path, tmp_path: Path) -> None:
    other = make_synthetic(tmp_path / "other", episodes=1, seed=7)
    alone = [TrainingDataset([path], ARM, PLAIN, 10) for path in (synthetic, other)]
    both = TrainingDataset([synthetic, other], ARM, PLAIN, 10)
    assert len(both) == sum(map(len, alone))
    for group in ("action", "relative_action"):
        parts = [getattr(each.statistics, group)["right_arm"] for each in alone]
        mixed = getattr(both.statistics, group)["right_arm"]
        np.testing.assert_array_equal(mixed.max, np.maximum(parts[0].max, parts[1].max))
        share = len(alone[0]) / len(both)
        np.testing.assert_allclose(mixed.mean, share * parts[0].mean + (1 - share) * parts[1].mean, atol=1e-9)


@pytest.fixture(scope="module")
def golden_cases(golden_n17: Path) -> dict[str, Any]:
    return json.loads((golden_n17 / "state_action_cases.json").read_text())


def test_upstreams_samples(golden_n17: Path, golden_cases: dict[str, Any]) -> None:
    """From the dataset's files to the model's vectors and images, with the statistics of the data."""
    case, tensors = golden_cases["so101_official"], load_file(golden_n17 / "state_action.safetensors")
    images = load_file(golden_n17 / "images.safetensors")
    dataset = TrainingDataset(
        [golden_n17 / "so101_tiny"], registered()["so100"], ProcessorSettings(), 10, augment=False
    )
    assert [episode.usable(16) for episode in dataset._episodes] == case["effective_lengths"]
    starts = np.cumsum([0, *case["effective_lengths"]])
    for number, step in enumerate(case["steps"]):
        sample = dataset[int(starts[step["episode"]]) + step["step"]]
        for name in ("state", "action", "action_mask"):
            np.testing.assert_allclose(sample[name], tensors[f"so101_official/{number}/{name}"], atol=1e-5)
        assert f"{sample['text']}<|im_end|>" in step["chat_text"]
    (at,) = json.loads((golden_n17 / "image_cases.json").read_text())["so101_no_letterbox"]["steps"]
    got = dataset[int(starts[at["episode"]]) + at["step"]]["images"]
    for index, image in enumerate(got):
        np.testing.assert_array_equal(image, images[f"so101_no_letterbox/0/image_{index}"])


def test_upstreams_history(golden_n17: Path) -> None:
    """As far as it is right; before an episode's start upstream takes frames of its end."""
    images = load_file(golden_n17 / "images.safetensors")
    case = json.loads((golden_n17 / "image_cases.json").read_text())
    config = replace(registered()["so100"], video_delta_indices=(-15, 0))
    folder = golden_n17 / "so101_tiny"
    settings = ProcessorSettings(shortest_image_edge=64, letter_box_transform=True)
    ours = TrainingDataset([folder], config, settings, 10, augment=False)
    for index, image in enumerate(ours[20]["images"]):
        np.testing.assert_array_equal(image, images[f"so101_small_history/0/image_{index}"])
    wraps = case["history_wraps"]
    exact = settings.model_copy(update={"upstream_exact": True})
    upstreams = TrainingDataset([folder], config, exact, 10, augment=False)
    episode = upstreams._episodes[0]
    np.testing.assert_array_equal(
        upstreams._frames(episode, wraps["step"])[0],
        upstreams._frames(episode, wraps["frame_returned"])[2],
    )
    np.testing.assert_array_equal(ours._frames(episode, wraps["step"])[0], ours._frames(episode, 0)[2])
