"""``tiny``: a generated base model of GR00T N1.5's architecture, small enough to train on a CPU.

Its weights are not learned but made: random where that does no harm, and where it would, such that a few hundred steps
are enough to follow demonstrations. A frozen random backbone would hide what is in the picture, a random action head
the action.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn

from trainer.gr00t.n15.backbone import EagleModel
from trainer.gr00t.n15.config import GR00TN15Config
from trainer.gr00t.n15.model import GR00TN15
from trainer.gr00t.n15.processor import IMAGE_TOKEN, SPECIAL_TOKENS, EagleProcessor
from trainer.gr00t.n15.sections import TINY_PATCH, TINY_WIDTH, tiny_sections
from trainer.gr00t.parts.tiny import fan_in, initialise_head, tiny_tokenizer
from trainer.gr00t.weights import save_checkpoint

_WORDS = "system You Ġare Ġa Ġhelpful Ġassistant user assistant image Ġthe Ġand Ġplace Ġit Ġin Ġpick Ġput pick"
"""Words of every prompt and most instructions, one token each; the rest is spelled in bytes. Ġ is a space."""


def make_tiny_base_model(path: Path, seed: int = 0) -> Path:
    """Write the tiny base model into folder ``path`` and return it. The same seed gives the same bytes."""
    tokenizer = tiny_tokenizer(_WORDS, SPECIAL_TOKENS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GR00TN15(tiny_config(tokenizer))
        _initialise_backbone(model.backbone.eagle_model)
        initialise_head(model.action_head, model.action_head.config.action_dim)
        # Sines and cosines of joint angles vary little around their mean.
        model.action_head.state_encoder.layer1.W.data.mul_(4)
    model.set_trainable(False, False, True, True)
    save_checkpoint(model, path)
    EagleProcessor(tokenizer, model.config.eagle).save_pretrained(path)
    return path


def tiny_config(tokenizer: Tokenizer) -> GR00TN15Config:
    """The configuration of the tiny model with ``tokenizer``, whose vocabulary must be ``TINY_VOCABULARY`` tokens."""
    values = tiny_sections()
    values["eagle_config"]["image_token_index"] = tokenizer.token_to_id(IMAGE_TOKEN)
    return GR00TN15Config.from_dict({"hidden_size": TINY_WIDTH, **values})


@torch.no_grad()
def _initialise_backbone(eagle: EagleModel) -> None:
    """Let each image token tell its patch's colours, where in the patch they are, and where the patch is."""
    embeddings = eagle.vision_model.vision_model.embeddings
    # Patch filters are random mixtures of the patch's mean colour and its slopes along x and y.
    ramp = torch.linspace(-1.5, 1.5, TINY_PATCH)
    flat = torch.ones(TINY_PATCH)
    basis = torch.stack([torch.outer(flat, flat), torch.outer(flat, ramp), torch.outer(ramp, flat)]) / TINY_PATCH**2
    mixture = torch.randn(embeddings.embed_dim, 3, len(basis))
    embeddings.patch_embedding.weight.copy_(torch.einsum("ocb,bhw->ochw", mixture, basis))
    nn.init.normal_(embeddings.position_embedding.weight, std=0.5)
    language = eagle.language_model.model
    nn.init.normal_(language.embed_tokens.weight)
    for layer in (*eagle.mlp1, *language.modules()):
        if isinstance(layer, nn.Linear):
            fan_in(layer.weight, layer.in_features)
