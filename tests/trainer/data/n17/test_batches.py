"""A batch of N1.7 is its samples, whichever device finishes its images: bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import InterpolationMode, functional

from tests.support.n17 import ARM
from trainer.data.n17 import bicubic
from trainer.data.n17.collate import Collator
from trainer.data.n17.dataset import TrainingDataset
from trainer.data.n17.finish import Finish, StepBatch, finish_images
from trainer.data.n17.images import draw_augmentation
from trainer.data.n17.patches import Patches
from trainer.data.n17.settings import ProcessorSettings
from trainer.data.synthetic import make_synthetic
from trainer.gr00t.n17.processor import QwenProcessor
from trainer.gr00t.n17.tiny import make_tiny_base_model

JITTER = {"brightness": 0.3, "contrast": 0.4, "saturation": 0.5, "hue": 0.08}
INDICES = [40, 3, 11, 0, 40]


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_synthetic(tmp_path_factory.mktemp("data") / "synthetic", episodes=2)


@pytest.fixture(scope="module")
def collate(tmp_path_factory: pytest.TempPathFactory) -> Collator:
    return Collator(QwenProcessor.from_directory(make_tiny_base_model(tmp_path_factory.mktemp("tiny") / "tiny")))


def assert_same(batch: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    assert batch.keys() == other.keys()
    for key, value in batch.items():
        assert torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key], key


def shrink(video: Path, width: int, height: int) -> None:
    """Encode ``video`` again, in another resolution."""
    with av.open(video) as container:
        frames = [frame.reformat(width, height).to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        rate = container.streams.video[0].average_rate
    with av.open(video, "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"color_jitter_params": JITTER, "random_rotation_angle": 10},
        {"color_jitter_params": {"hue": 0.08}, "letter_box_transform": True, "use_percentiles": False},
        {"use_albumentations": False, "image_target_size": (64, 64), "image_crop_size": (58, 58)},
        {"crop_fraction": None, "exclude_state": True, "use_relative_action": False},
    ],
    ids=["plain", "jitter", "bars", "torchvision", "whole"],
)
def test_a_batch_is_its_samples(synthetic: Path, collate: Collator, changed: dict[str, Any]) -> None:
    """With frames of the past, so that a sample has two images, and finished as on a GPU as well."""
    config = replace(ARM, video_delta_indices=(-5, 0))
    chosen = ProcessorSettings(shortest_image_edge=64).model_copy(update=changed)
    dataset = TrainingDataset([synthetic], config, chosen, 10)
    dataset.set_epoch(2)
    wanted = collate([dataset[index] for index in INDICES])
    (batch,) = torch.utils.data.DataLoader(dataset, batch_sampler=[INDICES], collate_fn=collate)
    assert batch["crops"][0].dtype == torch.uint8
    assert_same(finish_images(dict(batch)), wanted)
    assert torch.equal(batch["finish"].together(batch["crops"]), wanted["pixel_values"])
    with pytest.raises(IndexError):
        dataset.__getitems__([len(dataset)])


def test_a_loading_process_gives_the_same_batch(synthetic: Path, collate: Collator) -> None:
    """Here without augmentation."""
    dataset = TrainingDataset([synthetic], ARM, ProcessorSettings(), 10, augment=False)
    (batch,) = torch.utils.data.DataLoader(dataset, batch_sampler=[INDICES], collate_fn=collate, num_workers=1)
    wanted = collate([dataset[index] for index in INDICES])
    assert_same(finish_images(batch), wanted)
    assert torch.equal(batch["finish"].together(batch["crops"]), wanted["pixel_values"])


def test_datasets_with_cameras_of_different_size_give_finished_samples(
    synthetic: Path, collate: Collator, tmp_path: Path
) -> None:
    other = make_synthetic(tmp_path / "other", episodes=1)
    (video,) = other.rglob("*.mp4")
    shrink(video, width=96, height=64)
    dataset = TrainingDataset([synthetic, other], ARM, ProcessorSettings(shortest_image_edge=64), 10)
    mixed = dataset.__getitems__([0, len(dataset) - 1])
    assert not isinstance(mixed, StepBatch)
    batch = collate(mixed)
    assert finish_images(batch) is batch and len(batch["image_grid_thw"]) == 2
    assert isinstance(dataset.__getitems__([len(dataset) - 2, len(dataset) - 1]), StepBatch)


@settings(max_examples=25, deadline=None)
@given(
    sides=st.lists(st.tuples(st.integers(1, 70), st.integers(1, 70)), min_size=1, max_size=3),
    seed=st.integers(0, 2**31),
    angle=st.sampled_from([None, 0, 30]),
    jitter=st.sampled_from([None, {}, JITTER, {"brightness": 3.0, "contrast": 3.0, "saturation": 3.0, "hue": 0.5}]),
    gray=st.booleans(),
)
def test_a_gpus_way_and_a_cpus_give_the_same_bits(
    sides: list[tuple[int, int]], seed: int, angle: int | None, jitter: dict[str, float] | None, gray: bool
) -> None:
    """For cameras of any sizes, each with its own grid of patches."""
    drawing = ProcessorSettings(random_rotation_angle=angle, color_jitter_params=jitter)
    drawn = [draw_augmentation(drawing, torch.Generator().manual_seed(seed + sample)) for sample in range(3)]
    random = np.random.default_rng(seed)
    crops = [torch.from_numpy(random.integers(0, 256, (3, *each, 3), dtype=np.uint8)) for each in sides]
    if gray:
        crops = [each[..., :1].repeat(1, 1, 1, 3) for each in crops]
    sizes = [(height + height // 3, width + width // 5) for height, width in sides]
    finish = Finish(sizes, drawn, [(4, 6)] * len(sides), Patches(size=8, merge=2, times=2))
    assert torch.equal(finish.on_cpu([each.numpy() for each in crops]), finish.together(crops))


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.integers(3, 90)] * 4), st.integers(0, 2**31))
def test_bicubic_resizing_is_torchs_on_a_cpu(sides: tuple[int, int, int, int], seed: int) -> None:
    height, width, *wanted = sides
    images = torch.randint(
        0, 256, (2, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    expected = functional.resize(images, wanted, InterpolationMode.BICUBIC, antialias=True)
    assert torch.equal(bicubic.resize(images, *wanted), expected)
