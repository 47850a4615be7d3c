"""Camera images: crop, resize, colour jitter (upstream's ``transform/video.py``; torchvision v2).

Training crops at random and jitters colours; evaluation crops the centre and leaves colours alone. All cameras and
frames of a sample share one crop and one jitter, as upstream's do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from trainer.errors import DatasetError

IMAGE_SIZE = 224
CROP_SCALE = 0.95
BRIGHTNESS, CONTRAST, SATURATION = (0.7, 1.3), (0.6, 1.4), (0.5, 1.5)
HUE = (-0.08, 0.08)


def transform_images(views: Sequence[np.ndarray], generator: torch.Generator | None) -> np.ndarray:
    """Turn camera frames (uint8 ``[H, W, 3]``, one per view, all of one resolution) into uint8 ``[V, 224, 224, 3]``.

    With a ``generator`` this is training's augmentation, drawn from it and nothing else; without, evaluation's.
    Raises ``DatasetError`` when the views differ in resolution.
    """
    if len({view.shape for view in views}) != 1:
        raise DatasetError(
            f"Cameras of different resolution: {', '.join(str(view.shape[:2]) for view in views)} (height, width).",
            "Upstream crops all of them alike: record or re-encode them at one resolution.",
        )
    images = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).to(torch.float32) / 255
    height, width = int(images.shape[-2] * CROP_SCALE), int(images.shape[-1] * CROP_SCALE)
    if generator is None:
        images = functional.center_crop(images, [height, width])
    else:
        top = _randint(images.shape[-2] - height + 1, generator)
        left = _randint(images.shape[-1] - width + 1, generator)
        images = functional.crop(images, top, left, height, width)
    size = [IMAGE_SIZE, IMAGE_SIZE]
    images = functional.resize(images, size, interpolation=InterpolationMode.BILINEAR, antialias=True)
    if generator is not None:
        images = jitter_colours(images, generator)
    # Upstream truncates; rounding would shift half of all pixels by one.
    return (images * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def jitter_colours(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Apply torchvision's ``ColorJitter`` to float images ``[V, 3, H, W]`` in [0, 1], in its order of draws.

    torchvision's own class draws from the global generator, which depends on the worker and on what ran before.
    """
    order = torch.randperm(4, generator=generator).tolist()
    brightness, contrast, saturation, hue = (
        torch.empty(1).uniform_(low, high, generator=generator).item()
        for low, high in (BRIGHTNESS, CONTRAST, SATURATION, HUE)
    )
    for operation in order:
        if operation == 0:
            images = functional.adjust_brightness(images, brightness)
        elif operation == 1:
            images = functional.adjust_contrast(images, contrast)
        elif operation == 2:
            images = functional.adjust_saturation(images, saturation)
        else:
            images = functional.adjust_hue(images, hue)
    return images


def _randint(high: int, generator: torch.Generator) -> int:
    return int(torch.randint(0, high, (1,), generator=generator).item())
