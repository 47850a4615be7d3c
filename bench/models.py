"""Base models of the benchmarks: GR00T N1.5's architecture with the real vocabulary and small sizes elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from trainer.gr00t.base_model import TOKENIZER_FILES
from trainer.gr00t.n15.config import GR00TN15Config
from trainer.gr00t.n15.model import GR00TN15
from trainer.gr00t.n15.sections import OFFICIAL_EAGLE
from trainer.gr00t.n15.tiny import make_tiny_base_model
from trainer.gr00t.weights import save_checkpoint

SMALL_TEXT = {
    "head_dim": 32,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 1,
}
SMALL_VISION = {"hidden_size": 48, "intermediate_size": 80, "num_attention_heads": 2, "num_hidden_layers": 2}


def small_config(image_token: int = OFFICIAL_EAGLE.image_token_index) -> GR00TN15Config:
    """10.6 M parameters, 9.7 M of them the embeddings of all 151,680 tokens: the sizes upstream was measured with.

    Images have the real number of tokens (256), the robot's side its real width, and dropout is the official model's.
    """
    blocks = {"num_attention_heads": 2, "dropout": 0.2, "final_dropout": True}
    return GR00TN15Config(
        hidden_size=64,
        backbone_cfg={"eagle_path": "small", "select_layer": 2},
        eagle_config={
            "image_token_index": image_token,
            "torch_dtype": "float32",
            "text_config": OFFICIAL_EAGLE.text_config | SMALL_TEXT,
            "vision_config": OFFICIAL_EAGLE.vision_config | SMALL_VISION,
        },
        action_head_cfg={
            "backbone_embedding_dim": 64,
            "hidden_size": 40,
            "input_embedding_dim": 48,
            "diffusion_model_cfg": {
                "attention_head_dim": 24,
                "cross_attention_dim": 64,
                "num_layers": 2,
                "output_dim": 40,
                **blocks,
            },
            "vl_self_attention_cfg": {"attention_head_dim": 32, "num_layers": 2, **blocks},
        },
    )


def make_small_base_model(folder: Path, tokenizer: Path | None = None, seed: int = 0) -> Path:
    """Write a small base model with random weights into ``folder`` and return it.

    ``tokenizer`` is a folder with the official tokenizer's files; without one the model has that of ``tiny``, whose ids
    are the first of the vocabulary.
    """
    if tokenizer is None:
        tiny = make_tiny_base_model(folder)
        config = small_config(json.loads((tiny / "config.json").read_text())["eagle_config"]["image_token_index"])
        for weights in folder.glob("*.safetensors*"):
            weights.unlink()
    else:
        folder.mkdir(parents=True, exist_ok=True)
        for file in TOKENIZER_FILES:
            if (tokenizer / file).is_file():
                shutil.copy(tokenizer / file, folder / file)
        config = small_config()
    torch.manual_seed(seed)
    model = GR00TN15(config)
    model.set_trainable(False, False, True, True)
    save_checkpoint(model, folder)
    return folder
