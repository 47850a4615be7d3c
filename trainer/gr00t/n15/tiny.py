"""``tiny``: a generated base model of GR00T N1.5's architecture, small enough to train on a CPU.

Its weights are not learned but made: random where that does no harm, and where it would, such that a few hundred steps
are enough to follow demonstrations. A frozen random backbone would hide what is in the picture, a random action head
the action.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn

from trainer.gr00t.n15.action_head import FlowMatchingActionHead
from trainer.gr00t.n15.backbone import EagleModel
from trainer.gr00t.n15.config import GR00TN15Config
from trainer.gr00t.n15.model import GR00TN15
from trainer.gr00t.n15.processor import IMAGE_TOKEN, SPECIAL_TOKENS, EagleProcessor
from trainer.gr00t.n15.sections import TINY_PATCH, TINY_WIDTH, tiny_sections
from trainer.gr00t.parts.embodiment import CategorySpecificLinear
from trainer.gr00t.weights import save_checkpoint

_WORDS = "system You Ġare Ġa Ġhelpful Ġassistant user assistant image Ġthe Ġand Ġplace Ġit Ġin Ġpick Ġput pick"
"""Words of every prompt and most instructions, one token each; the rest is spelled in bytes. Ġ is a space."""


def make_tiny_base_model(path: Path, seed: int = 0) -> Path:
    """Write the tiny base model into folder ``path`` and return it. The same seed gives the same bytes."""
    tokenizer = _tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GR00TN15(tiny_config(tokenizer))
        _initialise_backbone(model.backbone.eagle_model)
        _initialise_head(model.action_head)
    model.set_trainable(False, False, True, True)
    save_checkpoint(model, path)
    EagleProcessor(tokenizer, model.config.eagle).save_pretrained(path)
    return path


def tiny_config(tokenizer: Tokenizer) -> GR00TN15Config:
    """The configuration of the tiny model with ``tokenizer``, whose vocabulary must be ``TINY_VOCABULARY`` tokens."""
    values = tiny_sections()
    values["eagle_config"]["image_token_index"] = tokenizer.token_to_id(IMAGE_TOKEN)
    return GR00TN15Config.from_dict({"hidden_size": TINY_WIDTH, **values})


def _tokenizer() -> Tokenizer:
    """Byte-level BPE: 256 bytes, the words of ``_WORDS``, the special tokens."""
    vocab = {symbol: index for index, symbol in enumerate(sorted(ByteLevel.alphabet()))}
    merges: list[tuple[str, str]] = []
    for word in _WORDS.split():
        for end in range(1, len(word)):
            pair = (word[:end], word[end])
            if pair not in merges:
                merges.append(pair)
                vocab.setdefault("".join(pair), len(vocab))
    tokenizer = Tokenizer(BPE(vocab, merges))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer


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
            _fan_in(layer.weight, layer.in_features)


@torch.no_grad()
def _initialise_head(head: FlowMatchingActionHead) -> None:
    """Let the noisy action through to the output with its sign turned: the velocity if all actions were zero.

    A network that must first learn to carry its input needs thousands of steps before it learns anything else, and a
    base model has them behind it. The action has the first ``width`` channels of its token for itself. Layers with an
    activation carry it twice, as x and -x: relu(x) - relu(-x) = x, and for swish likewise.
    """
    for layer in head.modules():
        if isinstance(layer, CategorySpecificLinear):
            _fan_in(layer.W, layer.W.shape[1])
    width = head.config.action_dim
    same = torch.eye(width)
    plus, minus, both = slice(width), slice(width, 2 * width), slice(2 * width)
    encoder, decoder = head.action_encoder, head.action_decoder
    encoder.W1.W[:, :, plus] = same
    for layer in (encoder.W2, decoder.layer1):
        layer.W[..., both] = 0
        layer.W[:, plus, plus], layer.W[:, plus, minus] = same, -same
    encoder.W3.W[..., plus] = 0
    encoder.W3.W[:, plus, plus], encoder.W3.W[:, minus, plus] = same, -same
    decoder.layer2.W.mul_(0.1)
    decoder.layer2.W[:, plus], decoder.layer2.W[:, minus] = -same, same
    head.position_embedding.weight.normal_(std=0.5)[:, plus] = 0
    head.model.proj_out_2.weight[plus] = 0
    head.model.proj_out_2.weight[plus, plus] = same
    for name, layer in head.model.transformer_blocks.named_modules():
        if isinstance(layer, nn.Linear) and ".norm1." not in name:
            _fan_in(layer.weight, layer.in_features, gain=0.5 if ".ff." in name else 1.0)
            if name.endswith(("to_out.0", "ff.net.2")):  # what is added to the tokens
                layer.weight[plus], layer.bias[plus] = 0, 0
    # Sines and cosines of joint angles vary little around their mean.
    head.state_encoder.layer1.W.mul_(4)


def _fan_in(weight: torch.Tensor, inputs: int, gain: float = 1.0) -> None:
    """Random weights that keep the variance of their input (upstream's fixed 0.02 suits 1536 channels)."""
    weight.normal_(std=gain * inputs**-0.5)
