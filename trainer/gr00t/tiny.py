"""``tiny``: a generated base model of GR00T N1.5's architecture, small enough to train on a CPU.

Its weights are random, so the frozen vision tower and language model must not hide what is in the picture: they are
initialised to pass on, for each patch, its colours, where in the patch they are, and where the patch is.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn

from trainer.gr00t.action_head import CategorySpecificLinear
from trainer.gr00t.config import GR00TN15Config
from trainer.gr00t.model import GR00TN15
from trainer.gr00t.processor import IMAGE_TOKEN, SPECIAL_TOKENS, EagleProcessor
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
        _initialise(model)
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
def _initialise(model: GR00TN15) -> None:
    """Make the random backbone informative."""
    eagle = model.backbone.eagle_model
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
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    # Upstream's fixed 0.02 suits 1536 channels; through narrow layers it would all but silence actions and state.
    for layer in model.action_head.modules():
        if isinstance(layer, CategorySpecificLinear):
            nn.init.normal_(layer.W, std=layer.W.shape[1] ** -0.5)
