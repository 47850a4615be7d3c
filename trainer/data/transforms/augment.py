"""Training's image transform for a whole batch, on the device it trains on: the numbers of ``transform_images``.

Frames arrive cropped, as the bytes they were decoded to. On a GPU a batch is one series of torch's kernels, on a CPU
every image goes through ``trainer.data.transforms.kernels``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from torchvision.transforms.v2 import functional

from trainer.data.transforms.images import IMAGE_SIZE, Augmentation

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
    if frames.device.type == "cpu":
        return _on_cpu(frames.numpy(), *_split(jitter))
    images = frames.permute(0, 1, 4, 2, 3)
    return finished(resized(images.to(torch.float32, memory_format=torch.contiguous_format)), jitter)


def resized(images: torch.Tensor) -> torch.Tensor:
    """Crops, float32 ``[B, V, 3, h, w]`` in [0, 255], as ``[B, V, 3, 224, 224]``."""
    small = functional.resize(images.flatten(0, 1), [IMAGE_SIZE, IMAGE_SIZE], antialias=True)
    return small.unflatten(0, images.shape[:2])


def finished(images: torch.Tensor, jitter: np.ndarray) -> torch.Tensor:
    """Jitter what ``resized`` gives, in torch's kernels, and return what ``augment`` does; ``images`` are used up."""
    images = jitter_together(images, *_split(jitter)).flatten(0, 1)
    # Upstream truncates to bytes in between.
    return images.floor_().div_(127.5).sub_(1)


def _split(jitter: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order and factors."""
    return jitter[:, :4].astype(np.int64), jitter[:, 4:].astype(np.float32)


def _on_cpu(frames: np.ndarray, order: np.ndarray, factors: np.ndarray) -> torch.Tensor:
    """One image to a thread, as many threads as torch computes with."""
    from trainer.data.transforms import kernels  # numba, which a GPU doesn't need

    batch, views, height, width, _ = frames.shape
    pixels = np.empty((batch, views, 3, IMAGE_SIZE, IMAGE_SIZE), dtype=np.float32)
    rows, columns = kernels.taps(height, IMAGE_SIZE), kernels.taps(width, IMAGE_SIZE)

    def sample(index: int) -> None:
        for view in range(views):
            kernels.transform(frames[index, view], rows, columns, order[index], factors[index], pixels[index, view])

    each_sample(sample, batch)
    return torch.from_numpy(pixels).flatten(0, 1)


def each_sample(work: Callable[[int], None], batch: int) -> None:
    """Do ``work``, which runs without the interpreter's lock, for each of ``batch`` samples, in as many threads as
    torch computes with.
    """
    threads = min(torch.get_num_threads(), batch)
    # A list, so that an exception is raised here.
    list(_threads(os.getpid(), threads).map(work, range(batch)) if threads > 1 else map(work, range(batch)))


@lru_cache(maxsize=1)
def _threads(_process: int, count: int) -> ThreadPoolExecutor:
    """Threads of this process: a fork doesn't inherit them."""
    return ThreadPoolExecutor(count, thread_name_prefix="augment")


def jitter_together(images: torch.Tensor, order: np.ndarray, factors: np.ndarray) -> torch.Tensor:
    """Jitter ``[B, V, 3, H, W]`` in [0, 255] in place. Samples that share their next operation share its kernels."""
    # A hue turned backwards is a separate operation: the other way round for the whole group.
    kinds = np.where((order == _HUE) & (factors[:, _HUE:] < 0), _HUE + 1, order)
    plan = planned(kinds)
    sizes = [len(rows) for _, rows in plan]
    # One transfer for all of them, from pinned memory: the host doesn't wait for the device.
    places = to_device(np.concatenate([rows for _, rows in plan]), images.device).split(sizes)
    weights = to_device(np.concatenate([factors[rows, min(kind, _HUE)] for kind, rows in plan]), images.device)
    for (kind, _), rows, factor in zip(plan, places, weights.view(-1, 1, 1, 1, 1).split(sizes), strict=True):
        if len(rows) == len(images):
            _OPERATIONS[kind](images, factor)
        else:
            chosen = images[rows]
            _OPERATIONS[kind](chosen, factor)
            images[rows] = chosen
    return images


def planned(kinds: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Operations and the samples they are for, turn by turn, of the ``kinds`` ``[B, turns]`` that each sample wants
    next; -1 is none.
    """
    turns = [(turn, kind) for turn in kinds.T for kind in np.unique(turn[turn >= 0]).tolist()]
    return [(kind, np.flatnonzero(turn == kind)) for turn, kind in turns]


def to_device(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """``values`` on ``device``; the host doesn't wait for a GPU."""
    tensor = torch.from_numpy(values)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def _brightness(images: torch.Tensor, factor: torch.Tensor) -> None:
    images.mul_(factor).clamp_(0, 255)


def _contrast(images: torch.Tensor, factor: torch.Tensor) -> None:
    red, green, blue = images.mean((-2, -1), keepdim=True).split(1, 2)
    mean = (red * _GRAY[0]).add_(green, alpha=_GRAY[1]).add_(blue, alpha=_GRAY[2])
    images.mul_(factor).add_(mean * (1 - factor)).clamp_(0, 255)


def _saturation(images: torch.Tensor, factor: torch.Tensor) -> None:
    red, green, blue = images.split(1, 2)
    gray = (red * _GRAY[0]).add_(green, alpha=_GRAY[1]).add_(blue, alpha=_GRAY[2])
    images.mul_(factor).add_(gray * (1 - factor)).clamp_(0, 255)


def _hue(images: torch.Tensor, factor: torch.Tensor) -> None:
    _turn_hue(images, factor, before=1)


def _hue_backwards(images: torch.Tensor, factor: torch.Tensor) -> None:
    _turn_hue(images, -factor, before=-1)


def _turn_hue(images: torch.Tensor, factor: torch.Tensor, before: int) -> None:
    """Turn the hue by up to a twelfth of the circle, without going through HSV.

    On the hue circle every channel is a trapezoid between the smallest and the largest of the three, ``low`` and
    ``high``. Turned by t sixths of the circle, 0 <= t <= 1/2, it is, with s = t (high - low),
    ``clamp(own - after + low + max(s, high - s - before), low, high)``, where ``after`` and ``before`` are the channels
    a third of the circle away: for red green and blue, and the other way round for a turn backwards.
    HSV would take a division and masks, ten times as long.
    """
    low, high = images.amin(2, keepdim=True), images.amax(2, keepdim=True)
    shift = (high - low).mul_(factor * 6)
    turned = torch.maximum(low + high - shift - images.roll(before, 2), low + shift).sub_(images.roll(-before, 2))
    torch.clamp(images.add_(turned), low, high, out=images)


_OPERATIONS: tuple[Callable[[torch.Tensor, torch.Tensor], None], ...] = (
    _brightness,
    _contrast,
    _saturation,
    _hue,
    _hue_backwards,
)
