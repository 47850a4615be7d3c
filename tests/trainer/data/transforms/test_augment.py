"""Batches on the device against the per-sample path: the same images within 1/255."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from tests.support.pictures import as_bytes, cropped, pictures
from trainer.data.transforms.augment import augment, jitter_array, jitter_together
from trainer.data.transforms.images import Augmentation, draw_augmentation, jitter_colours, transform_images
from trainer.data.transforms.kernels import taps
from trainer.data.video import decode_video

EXTREMES = [(0.7, 0.6, 0.5, -0.08), (1.3, 1.4, 1.5, 0.08), (1.3, 0.6, 1.5, -0.08), (0.7, 1.4, 0.5, 0.08)]


def split(drawn: list[Augmentation]) -> tuple[np.ndarray, np.ndarray]:
    return jitter_array(drawn)[:, :4].astype(np.int64), jitter_array(drawn)[:, 4:].astype(np.float32)


@pytest.mark.parametrize(("views", "height", "width"), [(1, 256, 256), (2, 120, 160), (3, 480, 640), (1, 100, 90)])
def test_a_batch_equals_the_per_sample_path(views: int, height: int, width: int) -> None:
    samples = [pictures(seed, views, height, width) for seed in range(4)]
    drawn = [draw_augmentation(height, width, torch.Generator().manual_seed(seed)) for seed in range(4)]
    expected = [transform_images(each, torch.Generator().manual_seed(seed)) for seed, each in enumerate(samples)]
    frames = torch.from_numpy(np.stack([cropped(each, draw) for each, draw in zip(samples, drawn, strict=True)]))
    pixels = augment(frames, jitter_array(drawn))
    assert pixels.shape == (4 * views, 3, 224, 224) and pixels.dtype == torch.float32
    difference = np.abs(as_bytes(pixels) - np.concatenate(expected).astype(np.int16))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.002  # where truncation met a rounding error


def test_real_frames(demo_dataset: Path) -> None:
    video = min(demo_dataset.rglob("*.mp4"))
    frames = [frame for number, (_, frame) in enumerate(decode_video(video)) if number % 100 == 0]
    for seed, frame in enumerate(frames):
        drawn = draw_augmentation(frame.shape[0], frame.shape[1], torch.Generator().manual_seed(seed))
        pixels = augment(torch.from_numpy(cropped([frame], drawn))[None], jitter_array([drawn]))
        expected = transform_images([frame], torch.Generator().manual_seed(seed))
        assert np.abs(as_bytes(pixels) - expected.astype(np.int16)).max() <= 1


def test_samples_of_a_batch_do_not_depend_on_each_other() -> None:
    """Bit for bit: a batch that is made up differently after a resume, or on two ranks, trains on the same images."""
    drawn = [draw_augmentation(60, 80, torch.Generator().manual_seed(seed)) for seed in range(3)]
    frames = torch.from_numpy(np.stack([cropped(pictures(seed, 2, 60, 80), drawn[seed]) for seed in range(3)]))
    together = augment(frames, jitter_array(drawn)).unflatten(0, (3, 2))
    for index in (2, 0, 1):
        alone = augment(frames[index : index + 1], jitter_array([drawn[index]]))
        assert torch.equal(alone, together[index])


def test_grouped_jitter_is_torchvisions() -> None:
    """The way of a GPU, which takes the operations of many samples together: every order, the largest factors."""
    orders = list(permutations(range(4)))
    drawn = [Augmentation(0, 0, order, EXTREMES[number % 4]) for number, order in enumerate(orders)]
    images = torch.from_numpy(np.stack([pictures(seed, 2, 48, 64) for seed in range(len(orders))]))
    images = images.permute(0, 1, 4, 2, 3).to(torch.float32).contiguous()
    got = jitter_together(images.clone(), *split(drawn))
    for number, draw in enumerate(drawn):
        expected = jitter_colours(images[number] / 255, draw.order, draw.factors) * 255
        torch.testing.assert_close(got[number], expected, atol=0.02, rtol=0)


@pytest.mark.parametrize("factors", EXTREMES)
@pytest.mark.parametrize("operation", range(4))
def test_each_operation_is_torchvisions(operation: int, factors: tuple[float, ...]) -> None:
    image = torch.from_numpy(np.stack(pictures(operation, 1, 64, 64))).permute(0, 3, 1, 2).to(torch.float32)
    got = jitter_together(image.clone()[None], *split([Augmentation(0, 0, (operation,) * 4, factors)]))[0]
    expected = jitter_colours(image / 255, (operation,) * 4, factors) * 255
    torch.testing.assert_close(got, expected, atol=0.02, rtol=0)


@pytest.mark.parametrize("size", [(243, 243), (456, 608), (95, 85), (224, 224), (200, 700)])
def test_the_weights_of_resizing_are_torchs(size: tuple[int, int]) -> None:
    image = torch.from_numpy(pictures(1, 1, *size)[0])
    (first, rows), (start, columns) = taps(size[0], 224), taps(size[1], 224)
    values = image.numpy().astype(np.float32)
    values = np.einsum("yt,ytwc->ywc", rows, values[first[:, None] + np.arange(rows.shape[1])])
    values = np.einsum("xt,yxtc->cyx", columns, values[:, start[:, None] + np.arange(columns.shape[1])])
    got = torch.from_numpy(values)
    expected = functional.resize(image.permute(2, 0, 1)[None].to(torch.float32), [224, 224], antialias=True)[0]
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=0)
