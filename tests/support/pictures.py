"""Camera frames that break colour jitter, cropped as a training's, and its images as the bytes they stand for."""

from __future__ import annotations

import numpy as np
import torch

from trainer.data.transforms.images import Augmentation, crop_size


def pictures(seed: int, views: int, height: int, width: int) -> list[np.ndarray]:
    """Noise, a gradient, flat gray, black, white and pure colours: what breaks hue and saturation."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    picture[: height // 4] = np.linspace(0, 255, width).astype(np.uint8)[None, :, None]
    for number, colour in enumerate([(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]):
        picture[-height // 8 :, number * 8 : number * 8 + 8] = colour
    return [np.roll(picture, view * 5, axis=1) for view in range(views)]


def cropped(views: list[np.ndarray], drawn: Augmentation) -> np.ndarray:
    """The views, cropped as drawn, [V, h, w, 3]."""
    height, width = crop_size(views[0].shape[0], views[0].shape[1])
    return np.stack([view[drawn.top : drawn.top + height, drawn.left : drawn.left + width] for view in views])


def as_bytes(pixels: torch.Tensor) -> np.ndarray:
    """Pixel values [N, 3, H, W] in [-1, 1] back to the bytes they came from, [N, H, W, 3]."""
    back = pixels.add(1).mul(127.5)
    assert (back - back.round()).abs().max() < 1e-3
    return back.round().to(torch.int16).permute(0, 2, 3, 1).numpy()
