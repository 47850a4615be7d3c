"""What a batch's images cost the device that trains: frames that are kept as RGB, and as planes of 4:2:0."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from bench.drill.report import Report
from bench.drill.variants import milliseconds, on_device
from trainer.data.planar import Colours
from trainer.data.transforms.augment import jitter_array
from trainer.data.transforms.images import crop_size, draw_augmentation
from trainer.data.transforms.planes import factors_of

FORMS = ["batch", "RGB, ms", "planes, ms", "×", "RGB, MB copied", "planes, MB copied"]
VIEWS, HEIGHT, WIDTH = 2, 480, 640


def compare_forms(report: Report, device: torch.device, batch: int, repeats: int) -> list[object]:
    """Copy, conversion, resize and jitter of ``batch`` samples, in milliseconds, and what is copied to the device."""
    forms = {"rgb": _rgb(batch), "planes": _planes(batch)}
    if device.type == "cuda":
        for form in forms.values():
            form |= {name: each.pin_memory() for name, each in form.items() if isinstance(each, torch.Tensor)}
    took = {name: milliseconds(lambda form=form: on_device(form, device), repeats) for name, form in forms.items()}
    copied = {name: form["frames"].numel() / 1e6 for name, form in forms.items()}
    report.fact(f"images_batch_{batch}", {"ms": took, "megabytes": copied})
    return [took["rgb"], took["planes"], f"{took['rgb'] / took['planes']:.2f}", copied["rgb"], copied["planes"]]


def _rgb(batch: int) -> dict[str, Any]:
    frames = torch.randint(0, 256, (batch, VIEWS, *crop_size(HEIGHT, WIDTH), 3), dtype=torch.uint8)
    return {"frames": frames, "jitter": jitter_array(_drawn(batch))}


def _planes(batch: int) -> dict[str, Any]:
    drawn = _drawn(batch)
    return {
        "frames": torch.randint(0, 256, (batch, VIEWS, HEIGHT * 3 // 2, WIDTH), dtype=torch.uint8),
        "jitter": jitter_array(drawn),
        "factors": torch.tensor([factors_of(Colours(1, 1))] * batch * VIEWS).view(batch, VIEWS, -1),
        "corners": np.array([(each.top, each.left) for each in drawn]),
    }


def _drawn(batch: int) -> list[Any]:
    return [draw_augmentation(HEIGHT, WIDTH, torch.Generator().manual_seed(seed)) for seed in range(batch)]
