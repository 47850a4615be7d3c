"""The model upstream's code was run with, and its golden numbers; golden/README.md says how they were made.

``python -m tests.support.golden GOLDEN_FOLDER OUT`` writes the numbers of this model to OUT, for a test that needs a
process with its own settings.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from trainer.gr00t.n15.config import GR00TN15Config
from trainer.gr00t.n15.model import GR00TN15

EMBEDDINGS = "backbone.eagle_model.language_model.model.embed_tokens.weight"
VARIANTS = ["A_sdpa", "A_fa2ref", "B_sdpa", "B_fa2ref"]
"""Batch (A without padding, B with) and what padding attends to: all alike (sdpa) or nothing (flash attention 2)."""


def load_config(golden: Path) -> GR00TN15Config:
    """Configuration of the small model."""
    document = json.loads((golden / "tiny_model_config.json").read_text())
    return GR00TN15Config(**document["gr00t_config"], eagle_config=document["eagle_config"])


def load_state(golden: Path) -> dict[str, torch.Tensor]:
    """Its weights, under upstream's names."""
    state = load_file(golden / "tiny_state_dict.safetensors")
    rows, values = state.pop(f"{EMBEDDINGS}.__rows"), state.pop(f"{EMBEDDINGS}.__values")
    state[EMBEDDINGS] = torch.zeros(151680, 64).index_copy_(0, rows, values)
    return state


def make_model(config: GR00TN15Config, state: dict[str, torch.Tensor], padding: str | None = None) -> GR00TN15:
    """The model, in eval mode. ``padding``: ``sdpa`` or ``fa2ref``, the two of upstream's ways, or None, ours."""
    config = copy.deepcopy(config)
    config.upstream_exact = padding is not None
    config.backbone_cfg = {**(config.backbone_cfg or {}), "use_flash_attention": padding == "fa2ref"}
    model = GR00TN15(config)
    model.load_state_dict(state, strict=True)
    return model.eval()


def expected(golden: Path, variant: str) -> dict[str, torch.Tensor]:
    """Upstream's numbers. Without padding both kinds of attention agree, so that batch A has one file."""
    return load_file(golden / f"forward_{'A_sdpa' if variant[0] == 'A' else variant}.safetensors")


def forward(model: GR00TN15, golden: Path, variant: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Our outputs and upstream's, from the same noise and time."""
    want = expected(golden, variant)
    return model(load_file(golden / f"batch_{variant[0]}.safetensors"), noise=want["noise"], time=want["t"]), want


def main(golden: Path, out: Path) -> None:
    """Write velocity, loss, sampled actions and timestep embedding of every variant to ``out``."""
    config, state, numbers = load_config(golden), load_state(golden), {}
    for variant in VARIANTS:
        model = make_model(config, state, variant[2:])
        with torch.no_grad():
            got, want = forward(model, golden, variant)
            inputs = load_file(golden / f"batch_{variant[0]}.safetensors")
            numbers |= {
                f"{variant}/dit_timestep_emb": model.action_head.model.timestep_encoder(want["t_discretized"]),
                f"{variant}/predicted_velocity": got["predicted_velocity"],
                f"{variant}/loss": got["loss"].reshape(1),
                f"{variant}/action_pred": model.get_action(inputs, noise=want["get_action_noise"])["action_pred"],
            }
    save_file(numbers, out)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
