"""The image pipeline of N1.7: bars, shortest edge, crop, shortest edge again and, in training, rotation and colour.

Follows upstream's ``gr00t/data/transforms/albumentations.py``. One draw serves all cameras and frames of a sample; a
camera of another size than the first is cropped at the same place in proportion, where upstream crops all at the first
one's pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torchvision.transforms.v2 import functional

from trainer.data.n17 import area
from trainer.data.n17.colour import turned
from trainer.data.n17.settings import ProcessorSettings

_JITTER = ("brightness", "contrast", "saturation", "hue")


@dataclass(frozen=True)
class Augmentation:
    """What training draws for a sample."""

    top: float
    """Where the crop lies between the upper and the lower edge, in [0, 1)."""
    left: float
    angle: float | None = None
    order: tuple[int, ...] = ()
    factors: tuple[float, ...] = ()


def draw_augmentation(settings: ProcessorSettings, generator: torch.Generator) -> Augmentation:
    """Draw a crop and, where ``settings`` have them, an angle and the order and factors of the colour jitter."""
    draws = torch.rand(7, generator=generator, dtype=torch.float64).tolist()
    order = torch.randperm(4, generator=generator).tolist()
    limit, ranges = settings.random_rotation_angle, settings.color_jitter_params
    factors = []
    if ranges is not None:
        for draw, name in zip(draws[3:], _JITTER, strict=True):
            size = ranges.get(name, 0.0)
            low, high = (-size, size) if name == "hue" else (max(0.0, 1 - size), 1 + size)
            factors.append(low + draw * (high - low))
    return Augmentation(
        top=draws[0],
        left=draws[1],
        angle=None if limit is None else (2 * draws[2] - 1) * limit,
        order=tuple(order) if ranges is not None else (),
        factors=tuple(factors),
    )


def transform(
    images: Sequence[np.ndarray], settings: ProcessorSettings, drawn: Augmentation | None = None
) -> list[np.ndarray]:
    """Frames uint8 ``[H, W, 3]`` of a sample as the processor of the backbone takes them, uint8.

    ``drawn`` augments them as in training; without it, the centre is cropped.
    """
    crops = [cut(image, settings, drawn) for image in images]
    finished = [finish(crop, finished_size(settings, *crop.shape[:2]), drawn) for crop in crops]
    return [np.ascontiguousarray(image.transpose(1, 2, 0)) for image in finished]


def cut(image: np.ndarray, settings: ProcessorSettings, drawn: Augmentation | None) -> np.ndarray:
    """The crop of a frame, all bars and resizing before it included, uint8 ``[h, w, 3]``."""
    if settings.letter_box_transform:
        image = boxed(image)
    if not settings.use_albumentations:
        return _by_torchvision(image, settings, drawn)
    height, width = image.shape[:2]
    image = area.resize(image, *_with_edge(height, width, settings.shortest_image_edge))
    return image if settings.crop_fraction is None else cropped(image, settings.crop_fraction, drawn)


def finished_size(settings: ProcessorSettings, height: int, width: int) -> tuple[int, int]:
    """The sides of the image that a crop of these sides becomes: the same, or more."""
    again = settings.use_albumentations and settings.crop_fraction is not None
    return _with_edge(height, width, settings.shortest_image_edge) if again else (height, width)


def finish(crop: np.ndarray, size: tuple[int, int], drawn: Augmentation | None) -> np.ndarray:
    """A crop uint8 ``[h, w, 3]`` as an image of ``size``, turned and its colours jittered, uint8 ``[3, H, W]``."""
    image = np.empty((3, *size), dtype=np.uint8)
    if crop.shape[:2] == size:
        image[...] = crop.transpose(2, 0, 1)
    else:
        area.enlarge_into(crop, image)
    if drawn is None:
        return image
    if drawn.angle is not None:
        image = turned(torch.from_numpy(image)[None], [drawn.angle])[0].numpy()
    if drawn.order:
        from trainer.data.n17 import kernels  # numba, which takes a while to import

        kernels.jitter(image, np.array(drawn.order), np.array(drawn.factors))
    return image


def boxed(image: np.ndarray) -> np.ndarray:
    """``image`` with black bars that make it square."""
    height, width = image.shape[:2]
    size = max(height, width)
    top, left = (size - height) // 2, (size - width) // 2
    return np.pad(image, ((top, size - height - top), (left, size - width - left), (0, 0)))


def _with_edge(height: int, width: int, edge: int | None) -> tuple[int, int]:
    """The sides of an image of this ratio whose shorter side is ``edge`` pixels."""
    scale = 1.0 if edge is None else edge / min(height, width)
    return round(height * scale), round(width * scale)


def cropped(image: np.ndarray, fraction: float, drawn: Augmentation | None) -> np.ndarray:
    """The middle of ``image``, or where ``drawn`` says, ``fraction`` of its sides."""
    height, width = image.shape[:2]
    rows, columns = max(int(height * fraction), 1), max(int(width * fraction), 1)
    if drawn is None:
        top, left = (height - rows) // 2, (width - columns) // 2
    else:
        top, left = int(drawn.top * (height - rows + 1)), int(drawn.left * (width - columns + 1))
    return image[top : top + rows, left : left + columns]


def _by_torchvision(image: np.ndarray, settings: ProcessorSettings, drawn: Augmentation | None) -> np.ndarray:
    """Upstream's other pipeline: to ``image_target_size``, a crop of ``image_crop_size``, and back to it."""
    size, crop = settings.image_target_size, settings.image_crop_size
    if size is None or crop is None:
        return image
    resized = functional.resize(torch.from_numpy(image).permute(2, 0, 1), list(size), antialias=True)
    if drawn is None:
        part = functional.center_crop(resized, list(crop))
    else:
        rows, columns = min(crop[0], size[0]), min(crop[1], size[1])
        top, left = int(drawn.top * (size[0] - rows + 1)), int(drawn.left * (size[1] - columns + 1))
        part = functional.crop(resized, top, left, rows, columns)
    return functional.resize(part, list(size), antialias=True).permute(1, 2, 0).numpy()
