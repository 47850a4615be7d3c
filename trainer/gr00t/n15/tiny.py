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

from trainer.gr00t.n15.action_head import CategorySpecificLinear, FlowMatchingActionHead
from trainer.gr00t.n15.backbone import EagleModel
from trainer.gr00t.n15.config import GR00TN15Config
from trainer.gr00t.n15.model import GR00TN15
from trainer.gr00t.n15.processor import IMAGE_TOKEN, SPECIAL_TOKENS, EagleProcessor
from trainer.gr00t.weights import save_checkpoint

_WORDS = "system You Ġare Ġa Ġhelpful Ġassistant user assistant image Ġthe Ġand Ġplace Ġit Ġin Ġpick Ġput pick"
"""Words of every prompt and most instructions, one token each; the rest is spelled in bytes. Ġ is a space."""

WIDTH = 96
_IMAGE, _PATCH = 224, 28


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
    """Sizes of the tiny model: official dimensions at the robot's side, small ones everywhere else."""
    # No dropout: so small a model has nothing to regularise.
    blocks = {"num_attention_heads": 4, "attention_head_dim": WIDTH // 4, "dropout": 0.0}
    return GR00TN15Config(
        hidden_size=WIDTH,
        backbone_cfg={"eagle_path": "tiny", "select_layer": 2},
        eagle_config={
            "image_token_index": tokenizer.token_to_id(IMAGE_TOKEN),
            "torch_dtype": "float32",
            "text_config": {
                "head_dim": 32,
                "hidden_size": WIDTH,
                "intermediate_size": 2 * WIDTH,
                "num_attention_heads": 4,
                "num_hidden_layers": 2,
                "num_key_value_heads": 2,
                "rope_theta": 1000000,
                "vocab_size": tokenizer.get_vocab_size(),
            },
            "vision_config": {
                "hidden_size": 64,
                "image_size": _IMAGE,
                "intermediate_size": 128,
                "num_attention_heads": 4,
                "num_hidden_layers": 2,
                "patch_size": _PATCH,
            },
        },
        action_head_cfg={
            "backbone_embedding_dim": WIDTH,
            "hidden_size": 128,
            "input_embedding_dim": WIDTH,
            "max_seq_len": 64,
            "num_target_vision_tokens": 2,
            "diffusion_model_cfg": {"num_layers": 4, "cross_attention_dim": WIDTH, "output_dim": 128, **blocks},
            "vl_self_attention_cfg": {"num_layers": 1, **blocks},
        },
    )


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
    ramp = torch.linspace(-1.5, 1.5, _PATCH)
    flat = torch.ones(_PATCH)
    basis = torch.stack([torch.outer(flat, flat), torch.outer(flat, ramp), torch.outer(ramp, flat)]) / _PATCH**2
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
