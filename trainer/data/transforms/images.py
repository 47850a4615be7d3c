"""Camera images: crop, resize, colour jitter (upstream's ``transform/video.py``; torchvision v2).

Training crops at random and jitters colours; evaluation crops the centre and leaves colours alone. All cameras and
frames of a sample share one crop and one jitter, as upstream's do. ``augment`` does the same for a whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from trainer.errors import DatasetError

IMAGE_SIZE = 224
CROP_SCALE = 0.95
BRIGHTNESS, CONTRAST, SATURATION = (0.7, 1.3), (0.6, 1.4), (0.5, 1.5)
HUE = (-0.08, 0.08)


class Augmentation(NamedTuple):
    """What is drawn for one sample."""

    top: int
    left: int
    order: tuple[int, ...]
    """The four colour operations (brightness, contrast, saturation, hue) in the order they are applied."""
    factors: tuple[float, ...]
    """Of brightness, contrast, saturation and hue."""


def crop_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of the crop of a frame."""
    return int(height * CROP_SCALE), int(width * CROP_SCALE)


def draw_augmentation(height: int, width: int, generator: torch.Generator) -> Augmentation:
    """Draw the crop and the jitter of a sample whose frames are ``height`` x ``width``, in torchvision's order.

    torchvision's own classes draw from the global generator, which depends on the worker and on what ran before.
    """
    crop_height, crop_width = crop_size(height, width)
    top = _randint(height - crop_height + 1, generator)
    left = _randint(width - crop_width + 1, generator)
    return Augmentation(top, left, *draw_jitter(generator))


def transform_images(views: Sequence[np.ndarray], generator: torch.Generator | None) -> np.ndarray:
    """Turn camera frames (uint8 ``[H, W, 3]``, one per view, all of one resolution) into uint8 ``[V, 224, 224, 3]``.

    With a ``generator`` this is training's augmentation, drawn from it and nothing else; without, evaluation's.
    Raises ``DatasetError`` when the views differ in resolution.
    """
    check_resolutions([view.shape[:2] for view in views])
    images = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).to(torch.float32) / 255
    drawn = draw_augmentation(images.shape[-2], images.shape[-1], generator) if generator else None
    height, width = crop_size(images.shape[-2], images.shape[-1])
    if drawn is None:
        images = functional.center_crop(images, [height, width])
    else:
        images = functional.crop(images, drawn.top, drawn.left, height, width)
    size = [IMAGE_SIZE, IMAGE_SIZE]
    images = functional.resize(images, size, interpolation=InterpolationMode.BILINEAR, antialias=True)
    if drawn is not None:
        images = jitter_colours(images, drawn.order, drawn.factors)
    # Upstream truncates; rounding would shift half of all pixels by one.
    return (images * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def jitter_colours(images: torch.Tensor, order: Sequence[int], factors: Sequence[float]) -> torch.Tensor:
    """Apply torchvision's ``ColorJitter`` to float images ``[V, 3, H, W]`` in [0, 1]."""
    for operation in order:
        adjust = (
            functional.adjust_brightness,
            functional.adjust_contrast,
            functional.adjust_saturation,
            functional.adjust_hue,
        )[operation]
        images = adjust(images, factors[operation])
    return images


def check_resolutions(sizes: Sequence[tuple[int, ...]]) -> None:
    """Raise ``DatasetError`` when the views of a sample differ in (height, width)."""
    if len(set(sizes)) != 1:
        raise DatasetError(
            f"Cameras of different resolution: {', '.join(map(str, sizes))} (height, width).",
            "Upstream crops all of them alike: record or re-encode them at one resolution.",
        )


def draw_jitter(generator: torch.Generator) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Draw the order and the factors of torchvision's ``ColorJitter``."""
    order = torch.randperm(4, generator=generator).tolist()
    ranges = (BRIGHTNESS, CONTRAST, SATURATION, HUE)
    factors = [torch.empty(1).uniform_(low, high, generator=generator).item() for low, high in ranges]
    return tuple(order), tuple(factors)


def _randint(high: int, generator: torch.Generator) -> int:
    return int(torch.randint(0, high, (1,), generator=generator).item())
