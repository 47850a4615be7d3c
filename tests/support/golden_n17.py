"""The N1.7 model upstream's code was run with, and its golden numbers; golden-n17/README.md says how they were made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from trainer.gr00t.n17.config import Gr00tN1d7Config
from trainer.gr00t.n17.model import Gr00tN1d7

IMAGE_CASES = [
    "demo_official",
    "so101_letterbox_626af89",
    "so101_no_letterbox",
    "so101_torchvision",
    "so101_small_two_samples",
    "so101_small_no_letterbox",
    "so101_small_history",
]
"""Ways from a camera's image to the model's, each with a sample's pixels before and after."""


def load_config(golden: Path, **changed: Any) -> Gr00tN1d7Config:
    """Configuration of the small model."""
    document = json.loads((golden / "tiny_model_config.json").read_text())
    values = {**document["gr00t_config"], "qwen3_vl_config": document["qwen3_vl_config"]}
    return Gr00tN1d7Config(**{**values, **changed})


def load_state(golden: Path) -> dict[str, torch.Tensor]:
    """Its weights, under upstream's names."""
    state = load_file(golden / "tiny_state_dict.safetensors")
    shapes = json.loads((golden / "tiny_model_config.json").read_text())["state_dict_shapes"]
    for name in [key.removesuffix(".__rows") for key in state if key.endswith(".__rows")]:
        rows, values = state.pop(f"{name}.__rows"), state.pop(f"{name}.__values")
        state[name] = torch.zeros(shapes[name]).index_copy_(0, rows, values)
    return state


def make_model(golden: Path, state: dict[str, torch.Tensor], **changed: Any) -> Gr00tN1d7:
    """The model, in eval mode, with what upstream trains by default trained."""
    model = Gr00tN1d7(load_config(golden, **changed))
    model.load_state_dict(state, strict=True)
    model.set_trainable(False, False, True, True)
    return model.eval()


def forward(model: Gr00tN1d7, golden: Path, batch: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Our outputs and upstream's on batch A or B, from the same noise and time."""
    want = load_file(golden / f"forward_{batch}.safetensors")
    return model(load_file(golden / f"batch_{batch}.safetensors"), noise=want["noise"], time=want["t"]), want
