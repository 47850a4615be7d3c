"""The generated base model of GR00T N1.7's architecture: small enough to train on a CPU, and able to learn.

As N1.5's (``trainer.gr00t.n15.tiny``): random where that does no harm, and where it would, made such that a few hundred
steps are enough to follow demonstrations.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn

from trainer.data.n17.embodiments import PROJECTOR_INDEX
from trainer.data.n17.processor_files import ProcessorFiles
from trainer.data.n17.settings import ProcessorSettings
from trainer.gr00t.n17.backbone import QwenBackbone
from trainer.gr00t.n17.config import Gr00tN1d7Config
from trainer.gr00t.n17.model import Gr00tN1d7
from trainer.gr00t.n17.processor import IMAGE_TOKEN, SPECIAL_TOKENS, ImageSettings, QwenProcessor
from trainer.gr00t.n17.sections import TINY_EDGE, TINY_PATCH, tiny_values
from trainer.gr00t.parts.tiny import fan_in, initialise_head, tiny_tokenizer
from trainer.gr00t.weights import save_checkpoint

_WORDS = "user Ġthe Ġand Ġplace Ġit Ġin Ġpick Ġput pick"
"""Words of every prompt and most instructions, one token each; the rest is spelled in bytes. Ġ is a space."""


def make_tiny_base_model(path: Path, seed: int = 0) -> Path:
    """Write the tiny base model into folder ``path`` and return it. The same seed gives the same bytes."""
    tokenizer = tiny_tokenizer(_WORDS, SPECIAL_TOKENS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Gr00tN1d7(tiny_config(tokenizer))
        _initialise_backbone(model.backbone)
        initialise_head(model.action_head, model.action_head.config.max_action_dim)
    model.set_trainable(False, False, True, True)
    save_checkpoint(model, path)
    values = model.config.checked
    images = ImageSettings(size={"shortest_edge": TINY_EDGE**2, "longest_edge": 16 * TINY_EDGE**2})
    QwenProcessor(tokenizer, values, images).save_pretrained(path)
    settings = ProcessorSettings(
        shortest_image_edge=TINY_EDGE,
        max_state_dim=values.max_state_dim,
        max_action_dim=values.max_action_dim,
        max_action_horizon=values.action_horizon,
    )
    ProcessorFiles(settings, {}, {}, PROJECTOR_INDEX, values.model_name).save(path)
    return path


def tiny_config(tokenizer: Tokenizer) -> Gr00tN1d7Config:
    """The configuration of the tiny model with ``tokenizer``, whose vocabulary must be ``TINY_VOCABULARY`` tokens."""
    image, start, end = (tokenizer.token_to_id(t) for t in (IMAGE_TOKEN, "<|vision_start|>", "<|vision_end|>"))
    return Gr00tN1d7Config.from_dict(tiny_values(image or 0, start or 0, end or 0))


@torch.no_grad()
def _initialise_backbone(backbone: QwenBackbone) -> None:
    """Let each image token tell its patches' colours, where in a patch they are, and where the patch is."""
    vision, language = backbone.qwen.visual, backbone.qwen.language_model
    # Patch filters are random mixtures of the patch's mean colour and its slopes along x and y; both frames are one.
    ramp = torch.linspace(-1.5, 1.5, TINY_PATCH)
    flat = torch.ones(TINY_PATCH)
    basis = torch.stack([torch.outer(flat, flat), torch.outer(flat, ramp), torch.outer(ramp, flat)]) / TINY_PATCH**2
    filters = vision.patch_embed.proj.weight
    mixture = torch.randn(filters.shape[0], 3, len(basis))
    frames = torch.full((filters.shape[2],), 1 / filters.shape[2])
    filters.copy_(torch.einsum("ocb,bhw,t->octhw", mixture, basis, frames))
    nn.init.normal_(vision.pos_embed.weight, std=0.5)
    nn.init.normal_(language.embed_tokens.weight)
    mergers = [vision.merger, *vision.deepstack_merger_list]
    for layer in (each for part in (*mergers, *language.layers) for each in part.modules()):
        if isinstance(layer, nn.Linear):
            fan_in(layer.weight, layer.in_features)
