"""Planes of 8-bit 4:2:0 to RGB in torch, on the device that trains: the numbers that FFmpeg's conversion gives.

FFmpeg (``libswscale/yuv2rgb.c``, and its assembly for x86) takes the colours of each 2x2 pixels from one pair of chroma
bytes, and sums products in fixed point, of 13 binary places, each rounded down. All of that is exact in float32. Other
processors' assembly may round otherwise, by 1/255.
"""

from __future__ import annotations

import numpy as np
import torch

from trainer.data.planar import Colours
from trainer.data.transforms.augment import resized
from trainer.data.transforms.images import crop_size

_BT601 = (104_597, 132_201, 25_675, 53_279)
_CHROMA = {
    0: _BT601,  # as FFmpeg takes RGB's
    1: (117_489, 138_438, 13_975, 34_925),  # BT.709
    2: _BT601,  # not told
    4: (104_448, 132_798, 24_759, 53_109),  # FCC
    5: _BT601,
    6: _BT601,
    7: (117_579, 136_230, 16_907, 35_559),  # SMPTE 240M
    9: (110_013, 140_363, 12_277, 42_626),  # BT.2020
}
"""V's share of red, U's of blue, U's and V's of green, less than none, in 65536ths and for limited range."""
_FULL = 2
AT_ONCE = 1 << 26
"""Bytes of planes whose frames are converted together. In float32 they take eight times as much of the device, and
their crops the same again; a batch of 32 samples of two cameras of 640x480 is less than half of it."""


def factors_of(colours: Colours) -> tuple[float, ...] | None:
    """What ``rgb_of`` multiplies with: black's luma, luma's factor, V's of red, U's of blue, U's and V's of green.

    None for colours that it doesn't know.
    """
    chroma = _CHROMA.get(colours.space)
    if chroma is None:
        return None
    if colours.range == _FULL:
        black, luma = 0, 1 << 16
        chroma = tuple(each * 224 // 255 for each in chroma)
    else:
        black, luma = 16, (255 << 16) // 219
    red, blue, *green = chroma
    return (black, *(((each << 13) + (1 << 15) >> 16) / 8192 for each in (luma, red, blue, *(-each for each in green))))


def rgb_of(planes: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Planes uint8 ``[..., H * 3 / 2, W]`` as float32 RGB ``[..., 3, H, W]``, whole numbers in [0, 255].

    ``factors`` are those of ``factors_of``, float32 ``[..., 6]``.
    """
    lines, width = planes.shape[-2:]
    height, lead = lines * 2 // 3, planes.shape[:-2]
    black, luma, red, blue, *green = factors[..., None, None].unbind(-3)
    bright = planes[..., :height, :].to(torch.float32).sub_(black).mul_(luma).floor_()
    chroma = planes[..., height:, :].reshape(*lead, 2, height // 2, width // 2).to(torch.float32).sub_(128)
    first, second = chroma.unbind(-3)
    shares = [(second * red).floor_(), (first * green[0]).floor_().add_((second * green[1]).floor_())]
    shares.append((first * blue).floor_())
    added = torch.stack(shares, -3)[..., :, None, :, None]
    pixels = bright.view(*lead, 1, height // 2, 2, width // 2, 2) + added
    return pixels.clamp_(0, 255).view(*lead, 3, height, width)


def resized_rgb(planes: torch.Tensor, factors: torch.Tensor, corners: np.ndarray) -> torch.Tensor:
    """The crops of a batch's planes, uint8 ``[B, V, H * 3 / 2, W]``, as float32 RGB ``[B, V, 3, 224, 224]``.

    ``corners`` ``[B, 2]`` are the top and the left edge of each sample's, and stay in host memory: the host never waits
    for the device.
    """
    some = max(AT_ONCE // planes[0].numel(), 1)
    parts = [
        resized(_cropped(rgb_of(planes[first : first + some], factors[first : first + some]), corners[first:]))
        for first in range(0, len(planes), some)
    ]
    return torch.cat(parts)


def _cropped(frames: torch.Tensor, corners: np.ndarray) -> torch.Tensor:
    rows, columns = crop_size(*frames.shape[-2:])
    crops = [
        frame[..., top : top + rows, left : left + columns]
        for frame, (top, left) in zip(frames, corners[: len(frames)].tolist(), strict=True)
    ]
    return torch.stack(crops)
