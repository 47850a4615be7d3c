"""Augmentation: torchvision's own distribution, drawn from the sample's generator alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from trainer.data.transforms.images import draw_jitter, jitter_colours, transform_images
from trainer.errors import DatasetError


def view(seed: int, height: int = 60, width: int = 80) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("seed", range(6))
def test_jitter_is_torchvisions_for_the_same_draws(seed: int) -> None:
    images = torch.from_numpy(view(seed)).permute(2, 0, 1)[None].float() / 255
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        expected = v2.ColorJitter(brightness=0.3, contrast=0.4, saturation=0.5, hue=0.08)(images)
    drawn = draw_jitter(torch.Generator().manual_seed(seed))
    torch.testing.assert_close(jitter_colours(images, *drawn), expected, rtol=0, atol=0)


@pytest.mark.parametrize("seed", range(3))
def test_training_augmentation_is_upstreams_chain_for_the_same_draws(seed: int) -> None:
    chain = v2.Compose(
        [
            v2.RandomCrop((57, 76)),
            v2.Resize((224, 224), antialias=True),
            v2.ColorJitter(brightness=0.3, contrast=0.4, saturation=0.5, hue=0.08),
        ]
    )
    frame = view(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        expected = (chain(torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255) * 255).to(torch.uint8)
    ours = transform_images([frame], torch.Generator().manual_seed(seed))
    np.testing.assert_array_equal(ours, expected.permute(0, 2, 3, 1).numpy())


def test_the_global_generator_is_neither_read_nor_advanced() -> None:
    before = torch.random.get_rng_state()
    first = transform_images([view(0)], torch.Generator().manual_seed(7))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    np.testing.assert_array_equal(transform_images([view(0)], torch.Generator().manual_seed(7)), first)


def test_all_views_share_one_crop_and_one_jitter() -> None:
    images = transform_images([view(0), view(0)], torch.Generator().manual_seed(1))
    assert images.shape == (2, 224, 224, 3)
    np.testing.assert_array_equal(images[0], images[1])


def test_views_of_different_resolution_are_refused() -> None:
    with pytest.raises(DatasetError, match=r"\(60, 80\), \(48, 80\)"):
        transform_images([view(0), view(0, height=48)], None)
