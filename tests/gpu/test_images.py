"""A GPU augments a batch as a CPU does: the same images within 1/255."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.gpu.conftest import Within
from tests.support.pictures import as_bytes, cropped, pictures
from trainer.data.planar import Colours
from trainer.data.transforms.augment import augment, jitter_array
from trainer.data.transforms.images import draw_augmentation
from trainer.data.transforms.planes import factors_of, resized_rgb


@pytest.mark.gpu
@pytest.mark.parametrize(("views", "height", "width"), [(2, 256, 256), (1, 480, 640)])
def test_a_gpu_gives_the_same_images(device: torch.device, within: Within, views: int, height: int, width: int) -> None:
    drawn = [draw_augmentation(height, width, torch.Generator().manual_seed(seed)) for seed in range(8)]
    frames = np.stack([cropped(pictures(seed, views, height, width), drawn[seed]) for seed in range(8)])
    here, there = (augment(torch.from_numpy(frames).to(each), jitter_array(drawn)).cpu() for each in ("cpu", device))
    difference = np.abs(as_bytes(here) - as_bytes(there))
    assert (difference > 0).mean() < 0.002
    within(difference.max() / 255, 1 / 255)


@pytest.mark.gpu
@pytest.mark.parametrize(("space", "range_"), [(1, 1), (5, 2)])
def test_a_gpu_converts_planes_to_the_same_rgb(device: torch.device, within: Within, space: int, range_: int) -> None:
    """Whole numbers before they are resized: the same on any device."""
    planes = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 2, 363, 322), dtype=np.uint8))
    factors = torch.tensor([factors_of(Colours(range_, space))] * 8).view(4, 2, -1)
    corners = np.array([[0, 0], [12, 16], [3, 5], [12, 0]])
    here, there = (resized_rgb(planes.to(each), factors.to(each), corners).cpu() for each in ("cpu", device))
    within((here - there).abs().max().item() / 255, 1e-5)
