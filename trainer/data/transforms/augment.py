"""Training's image transform for a whole batch, on the device it trains on: the numbers of ``transform_images``.

Frames arrive cropped, as the bytes they were decoded to. On a GPU a batch is one series of kernels. On a CPU it is
taken sample by sample, so that an image stays in the processor's cache from the first operation to the last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torchvision.transforms.v2 import functional

from trainer.data.transforms.images import IMAGE_SIZE, Augmentation
from trainer.data.transforms.resize import resize

_GRAY = (0.2989, 0.587, 0.114)
"""torchvision's weights of red, green and blue."""

_HUE = 3


def jitter_array(drawn: Sequence[Augmentation]) -> np.ndarray:
    """The jitter of B samples as one array ``[B, 8]``, order before factors; it stays in host memory, where the
    operations are chosen.
    """
    return np.array([[*each.order, *each.factors] for each in drawn])


def augment(frames: torch.Tensor, jitter: np.ndarray) -> torch.Tensor:
    """Resize and jitter cropped frames, uint8 ``[B, V, h, w, 3]``, with ``jitter`` of ``jitter_array``.

    Returns the model's pixel values, float32 ``[B x V, 3, 224, 224]`` in [-1, 1] on the frames' device. Apart from
    rounding, which the truncation to bytes in between may turn into 1/255, they are what ``transform_images`` and the
    processor make of each sample.
    """
    batch, views = frames.shape[:2]
    if frames.device.type == "cpu":
        pixels = torch.empty(batch, views, 3, IMAGE_SIZE, IMAGE_SIZE)
        scratch = torch.empty(2, views, 3, IMAGE_SIZE, IMAGE_SIZE)
        for sample, drawn in enumerate(jitter.tolist()):
            images = pixels[sample]
            for view in range(views):
                resize(frames[sample, view], images[view])
            for operation in map(int, drawn[:4]):
                images = _OPERATIONS[operation](images, drawn[4 + operation], scratch)
            _quantise(images, pixels[sample])
    else:
        images = frames.flatten(0, 1).permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        images = functional.resize(images, [IMAGE_SIZE, IMAGE_SIZE], antialias=True)
        pixels = images.view(batch, views, *images.shape[1:])
        _quantise(jitter_together(pixels, jitter), pixels)
    return pixels.flatten(0, 1)


def jitter_together(images: torch.Tensor, jitter: np.ndarray) -> torch.Tensor:
    """Jitter ``[B, V, 3, H, W]`` in [0, 255], overwriting it; returns where the result is.

    Samples that share their next operation share its kernels.
    """
    order, factors = jitter[:, :4].astype(np.int64), jitter[:, 4:].astype(np.float32)
    # A hue turned backwards is an operation of its own: the other way round for the whole group.
    kinds = np.where((order == _HUE) & (factors[:, _HUE:] < 0), _HUE + 1, order)
    plan = [
        (kind, rows)
        for turn in range(4)
        for kind in range(_HUE + 2)
        if len(rows := np.flatnonzero(kinds[:, turn] == kind))
    ]
    sizes = [len(rows) for _, rows in plan]
    # One transfer for all of them, from pinned memory: the host doesn't wait for the device.
    places = _to_device(np.concatenate([rows for _, rows in plan]), images.device).split(sizes)
    weights = _to_device(np.concatenate([factors[rows, min(kind, _HUE)] for kind, rows in plan]), images.device)
    for (kind, _), rows, factor in zip(plan, places, weights.view(-1, 1, 1, 1, 1).split(sizes), strict=True):
        chosen = images if len(rows) == len(images) else images[rows]
        if kind < _HUE:
            done = _OPERATIONS[kind](chosen, factor, None)
        else:
            done = _turn_hue(chosen, factor.abs(), None, backwards=kind > _HUE)
        if chosen is images:
            images = done
        else:
            images[rows] = done
    return images


def _to_device(values: np.ndarray, device: torch.device) -> torch.Tensor:
    tensor = torch.from_numpy(values)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


# The operations take images ``[..., V, 3, H, W]`` in [0, 255], which they overwrite, and return where the result is. A
# factor is a number for all images, or one for each as ``[B, 1, 1, 1, 1]``. ``scratch`` is room for two more of
# ``images``: fresh memory costs as much as an operation.


def _brightness(images: torch.Tensor, factor: float | torch.Tensor, _: torch.Tensor | None) -> torch.Tensor:
    return _clamp(images.mul_(factor), factor)


def _contrast(images: torch.Tensor, factor: float | torch.Tensor, _: torch.Tensor | None) -> torch.Tensor:
    red, green, blue = images.mean((-2, -1), keepdim=True).split(1, -3)
    mean = (red * _GRAY[0]).add_(green, alpha=_GRAY[1]).add_(blue, alpha=_GRAY[2])
    return _blend(images, mean, factor)


def _saturation(images: torch.Tensor, factor: float | torch.Tensor, scratch: torch.Tensor | None) -> torch.Tensor:
    red, green, blue = images.split(1, -3)
    gray = torch.mul(red, _GRAY[0], out=_plane(scratch, 0))
    gray.add_(green, alpha=_GRAY[1]).add_(blue, alpha=_GRAY[2])
    return _blend(images, gray, factor)


def _blend(images: torch.Tensor, other: torch.Tensor, factor: float | torch.Tensor) -> torch.Tensor:
    """``factor`` of the images and the rest of ``other``, which is overwritten."""
    other.mul_(1 - factor)
    if isinstance(factor, torch.Tensor):
        return images.mul_(factor).add_(other).clamp_(0, 255)
    return _clamp(torch.add(other, images, alpha=factor, out=images), factor)


def _clamp(images: torch.Tensor, factor: float | torch.Tensor) -> torch.Tensor:
    # A factor of up to 1 mixes with black or gray and stays within the bounds.
    return images.clamp_(0, 255) if isinstance(factor, torch.Tensor) or factor > 1 else images


def _hue(images: torch.Tensor, factor: float, scratch: torch.Tensor | None) -> torch.Tensor:
    return _turn_hue(images, abs(factor), scratch, backwards=factor < 0)


def _turn_hue(
    images: torch.Tensor, turn: float | torch.Tensor, scratch: torch.Tensor | None, *, backwards: bool
) -> torch.Tensor:
    """Turn the hue by up to a twelfth of the circle, without going through HSV.

    On the hue circle every channel is a trapezoid between the smallest and the largest of the three, ``low`` and
    ``high``. Turned by t sixths of the circle, 0 <= t <= 1/2, it is, with s = t (high - low),
    ``clamp(own - after + low + max(s, high - s - before), low, high)``, where ``after`` and ``before`` are the channels
    a third of the circle away: for red green and blue, and the other way round for a turn backwards.
    HSV would take a division and masks, ten times as long on a CPU.
    """
    channels = images.split(1, -3)
    low = torch.minimum(channels[0], channels[1], out=_plane(scratch, 0))
    torch.minimum(low, channels[2], out=low)
    high = torch.maximum(channels[0], channels[1], out=_plane(scratch, 1))
    torch.maximum(high, channels[2], out=high)
    shift = torch.sub(high, low, out=_plane(scratch, 2)).mul_(turn * 6)
    turned = torch.empty_like(images) if scratch is None else scratch[1]
    targets = turned.split(1, -3)
    # The same for all three, so that each takes five operations: low + high - s, and low + s.
    falling = torch.add(low, high, out=targets[2]).sub_(shift)
    rising = shift.add_(low)
    after = -1 if backwards else 1
    for own, target in enumerate(targets):
        torch.sub(falling, channels[(own - after) % 3], out=target)
        torch.maximum(target, rising, out=target).add_(channels[own]).sub_(channels[(own + after) % 3])
        torch.clamp(target, low, high, out=target)
    return turned


def _plane(scratch: torch.Tensor | None, index: int) -> torch.Tensor | None:
    return None if scratch is None else scratch[0, :, index : index + 1]


def _quantise(images: torch.Tensor, out: torch.Tensor) -> None:
    """[0, 255] to [-1, 1] through whole numbers: upstream truncates to bytes."""
    torch.floor(images, out=out)
    torch.add(torch.full((), -1.0, device=out.device), out, alpha=1 / 127.5, out=out)


_OPERATIONS: tuple[Callable[..., torch.Tensor], ...] = (_brightness, _contrast, _saturation, _hue)
