"""What the generated base models share: a tokenizer of bytes, and an action head that learns in a few hundred steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn

from trainer.gr00t.parts.embodiment import ActionEncoder, CategorySpecificLinear, CategorySpecificMLP
from trainer.gr00t.parts.transformer import DiT


class FlowMatching(Protocol):
    """An action head of any generation."""

    model: DiT
    action_encoder: ActionEncoder
    action_decoder: CategorySpecificMLP
    position_embedding: nn.Embedding

    def modules(self) -> Iterable[nn.Module]:
        """All modules in it."""
        ...


def tiny_tokenizer(words: str, special: Iterable[str]) -> Tokenizer:
    """Byte-level BPE: 256 bytes, ``words`` and their beginnings, the ``special`` tokens, in this order."""
    vocab = {symbol: index for index, symbol in enumerate(sorted(ByteLevel.alphabet()))}
    merges: list[tuple[str, str]] = []
    for word in words.split():
        for end in range(1, len(word)):
            pair = (word[:end], word[end])
            if pair not in merges:
                merges.append(pair)
                vocab.setdefault("".join(pair), len(vocab))
    tokenizer = Tokenizer(BPE(vocab, merges))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


@torch.no_grad()
def initialise_head(head: FlowMatching, width: int) -> None:
    """Let the noisy action through to the output with its sign turned: the velocity if all actions were zero.

    A network that must first learn to carry its input needs thousands of steps before it learns anything else, and a
    base model has them behind it. The action has the first ``width`` channels of its token for itself. Layers with an
    activation carry it twice, as x and -x: relu(x) - relu(-x) = x, and the same for swish.
    """
    for layer in head.modules():
        if isinstance(layer, CategorySpecificLinear):
            fan_in(layer.W, layer.W.shape[1])
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
            fan_in(layer.weight, layer.in_features, gain=0.5 if ".ff." in name else 1.0)
            if name.endswith(("to_out.0", "ff.net.2")):  # what is added to the tokens
                layer.weight[plus], layer.bias[plus] = 0, 0


def fan_in(weight: torch.Tensor, inputs: int, gain: float = 1.0) -> None:
    """Random weights that keep the variance of their input (upstream's fixed 0.02 suits 1536 channels)."""
    weight.normal_(std=gain * inputs**-0.5)
