"""What the bench compares with does the work it claims to do: upstream's samples, decoded at every access."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.upstream_way.data import UpstreamWay
from trainer.data.dataset import TrainingDataset
from trainer.gr00t.n15.processor import EagleProcessor
from trainer.gr00t.n15.tiny import make_tiny_base_model


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> EagleProcessor:
    return EagleProcessor.from_directory(make_tiny_base_model(tmp_path_factory.mktemp("tiny")))


def test_its_samples_are_ours(demo_dataset: Path, processor: EagleProcessor) -> None:
    theirs = UpstreamWay(demo_dataset, "torchvision_av", processor)
    ours = TrainingDataset([demo_dataset], "fourier_gr1_arms_only", "new_embodiment")
    assert len(theirs) == len(ours)
    reader = ours.readers[0]
    for index in (0, 415, 1000):
        sample, expected = theirs[index], ours[index]
        np.testing.assert_allclose(sample["state"], expected["state"], atol=1e-6)
        np.testing.assert_allclose(sample["action"], expected["action"], atol=1e-6)
        assert expected["text"] in sample["text"] and sample["image"].size == (224, 224)
        episode, step = theirs.steps[index]
        video = reader.meta.video_path("ego_view", episode)
        frame = reader.get_step_data(episode, step)["video.ego_view"][0]
        timestamps = reader.table(episode).timestamps
        assert timestamps is not None
        np.testing.assert_array_equal(theirs.read(video, float(timestamps[step])), frame)
    batch = theirs.collate([theirs[0], theirs[1]])
    encoded = processor.encode_prompts([ours[0]["text"], ours[1]["text"]], [1, 1])
    assert batch["eagle_input_ids"].tolist() == encoded["eagle_input_ids"].tolist()
    assert batch["eagle_pixel_values"].shape == (2, 3, 224, 224)
