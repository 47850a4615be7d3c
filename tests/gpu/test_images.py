"""A GPU augments a batch as a CPU does: the same images within 1/255."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.gpu.conftest import Within
from tests.support.pictures import as_bytes, cropped, pictures
from trainer.data.transforms.augment import augment, jitter_array
from trainer.data.transforms.images import draw_augmentation


@pytest.mark.gpu
@pytest.mark.parametrize(("views", "height", "width"), [(2, 256, 256), (1, 480, 640)])
def test_a_gpu_gives_the_same_images(device: torch.device, within: Within, views: int, height: int, width: int) -> None:
    drawn = [draw_augmentation(height, width, torch.Generator().manual_seed(seed)) for seed in range(8)]
    frames = np.stack([cropped(pictures(seed, views, height, width), drawn[seed]) for seed in range(8)])
    here, there = (augment(torch.from_numpy(frames).to(each), jitter_array(drawn)).cpu() for each in ("cpu", device))
    difference = np.abs(as_bytes(here) - as_bytes(there))
    assert (difference > 0).mean() < 0.002
    within(difference.max() / 255, 1 / 255)
