"""What a training of GR00T N1.5 holds in memory, by part of the model: counted from its sizes, without torch.

Parameters are exact, and with them gradients and AdamW's moments. Activations are the tensors autograd keeps for the
backward pass, added up layer by layer as the engine trains on a GPU: bf16 autocast, attention that keeps no scores, no
gradient checkpointing, frozen parts without a graph. ``tests/trainer/gr00t/test_memory.py`` holds both against the
full-size model on fake tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from trainer.config.finetune_config import FinetuneConfig
from trainer.data.configs import get_data_config
from trainer.gr00t.n15.sections import Sections

TEXT_TOKENS = 19 + 10
"""Tokens of a prompt beside its images: the frame of the conversation, and an instruction of ten. Each image adds 7 to
those of its patches."""


@dataclass(frozen=True)
class Part:
    """A part of the model in a training; counts of parameters, and bytes."""

    parameters: int
    trained: int
    width: int
    """Bytes of a parameter. Gradients and both moments have the parameters' type."""
    adapters: int = 0
    """LoRA's parameters, always float32."""
    adapted: int = 0
    """Of ``parameters``, those that adapters are merged into when a checkpoint is saved."""
    copies: int = 0
    """Bytes of the bf16 copies that autocast makes of float32 weights, which autograd keeps."""
    activations: int = 0
    """Bytes of all else that autograd keeps."""

    @property
    def gradients(self) -> int:
        """Bytes of the gradients."""
        return self.width * self.trained + 4 * self.adapters

    @property
    def weights(self) -> int:
        """Bytes of the weights, adapters included."""
        return self.width * self.parameters + 4 * self.adapters

    @property
    def changing(self) -> int:
        """Bytes of the weights in a checkpoint that differ from one to the next."""
        return self.width * (self.trained + self.adapted)


class Mode(NamedTuple):
    """How a part of the model runs, as far as it decides what autograd keeps."""

    tuned: bool
    """Its weights are trained: then a linear layer keeps its input."""
    rank: int
    """Of the LoRA adapters on its queries, keys and values; 0 for none."""
    operand: int
    """Bytes of a number that a matrix product reads."""
    full: int = 4
    """Bytes of a number between layers and in norms."""
    reads: int = 3
    """How often a tensor that three linear layers read is kept: autocast makes each its own copy."""
    mask: int = 0
    """Bytes that dropout keeps for each number, in the blocks and before LoRA's adapters."""
    lora_mask: int = 0

    def qkv(self, width: int, layers: int = 3) -> int:
        """Bytes kept of a token for its ``layers`` projections to queries, keys and values."""
        if self.rank:
            return layers * (self.operand * (width + self.rank) + self.lora_mask * width)
        return min(layers, self.reads) * self.operand * width if self.tuned else 0


def parts(model: Sections, config: FinetuneConfig, *, on_gpu: bool = True) -> list[Part]:
    """The parts of ``model`` in the order of the backward pass: action head, mixing, language model, vision tower.

    ``trainer.gr00t.n15`` says what the layers are. Left out of the activations, less than a hundredth: what attention
    and norms keep of each row, embeddings of the time, encoders and decoder of states and actions.
    """
    lora, rank = config.lora_rank > 0, config.lora_rank
    full_lora = rank if config.lora_full_model else 0
    data = get_data_config(config.data_config)
    head, width = model.action_head, model.eagle.width
    views, batch = len(data.video), config.batch_size
    tokens = batch * (TEXT_TOKENS + views * (7 + model.eagle.image_tokens))
    patches = batch * views * model.eagle.image_tokens
    mask = 1 if on_gpu else 4
    drop = mask if lora and config.lora_dropout else 0
    backbone = {"operand": min(width, 2) if on_gpu else width, "full": 4 if on_gpu else width, "lora_mask": drop}
    above = {"operand": 2 if on_gpu else 4, "reads": 3 if on_gpu else 1, "lora_mask": drop}
    visual, llm = config.tune_visual and not lora, config.tune_llm and not lora

    diffusion = Mode(config.tune_diffusion_model and not lora, rank, **above)
    mixing = Mode(not lora, rank, **above, mask=mask if head.vl_self_attention_cfg.dropout else 0)
    if (diffusion.tuned or lora) and head.diffusion_model_cfg.dropout:
        diffusion = diffusion._replace(mask=mask)
    language = Mode(llm, full_lora, **backbone, reads=1)
    vision = Mode(visual, full_lora, **backbone, reads=3 if on_gpu else 1)
    return [
        _action_head(model, config, diffusion, data.action_horizon, data.max_action_dim, tokens),
        _mixing(model, mixing, tokens),
        _language(model, language, tokens if llm or visual or full_lora else 0),
        _vision(model, vision, patches if visual or full_lora else 0),
    ]


def _action_head(model: Sections, config: FinetuneConfig, mode: Mode, horizon: int, actions: int, tokens: int) -> Part:
    """DiT, encoders and decoder: horizon steps of so many actions, attending to ``tokens`` of the whole batch."""
    head, dit = model.action_head, model.action_head.diffusion_model_cfg
    e, c, x, n = dit.inner_dim, dit.cross_attention_dim, mode.operand, mode.full
    alone = dit.num_layers // 2 if dit.interleave_self_attention else 0
    crossing = dit.num_layers - alone

    def block(context: int) -> int:
        """Adaptive norm; queries and output, keys and values; feed-forward."""
        return 2 * (e * e + e) + 2 * e * e + 2 * e + 2 * (context + 1) * e + 8 * e * e + 5 * e

    ends = (256 * e + e) + (e * e + e) + (2 * e * e + 2 * e) + (e + 1) * dit.output_dim
    diffusion = alone * block(e) + crossing * block(c) + ends
    slots, h, w = head.max_num_embodiments, head.hidden_size, head.input_embedding_dim
    state = slots * ((head.max_state_dim + 1) * h + (h + 1) * w)
    action = slots * ((actions + 1) * w + (2 * w + 1) * w + (w + 1) * w)
    decoder = slots * ((h + 1) * h + (h + 1) * actions)
    projector = state + action + decoder + (head.max_seq_len * w if head.add_pos_embed else 0)
    future = head.num_target_vision_tokens * w
    trained = mode.tuned * diffusion + config.tune_projector * projector + (0 if mode.rank else future)

    t = config.batch_size * (1 + head.num_target_vision_tokens + horizon)
    # Norms' inputs and attention's; what GELU and its two linear layers read; dropout on attention, GELU and the end.
    every = 2 * n * e + mode.qkv(e, 1) + 2 * x * e + 4 * x * e + 6 * mode.mask * e + mode.tuned * (n + x + 4 * x) * e
    kept = dit.num_layers * t * every
    kept += alone * t * (mode.qkv(e, 2) + 2 * x * e) + crossing * tokens * (mode.qkv(c, 2) + 2 * x * e)
    kept += t * (n + mode.tuned * (n + x)) * e
    adapters = mode.rank * (dit.num_layers * 2 * e + alone * 4 * e + crossing * 2 * (c + e))
    products = dit.num_layers * 10 * e * e + 2 * e * (alone * e + crossing * c) + e * dit.output_dim
    products += mode.tuned * ((dit.num_layers + 1) * 2 * e * e + e * e)
    products += h * h + h * actions + config.tune_projector * (3 * w * w + h * w) + adapters
    return Part(
        parameters=diffusion + projector + future,
        trained=trained,
        width=4,
        adapters=adapters,
        adapted=(dit.num_layers * e * e + 2 * e * (alone * e + crossing * c)) if mode.rank else 0,
        copies=2 * products if x == 2 else 0,
        activations=kept,
    )


def _mixing(model: Sections, mode: Mode, tokens: int) -> Part:
    """``vlln`` and ``vl_self_attention``, which no flag freezes."""
    head, blocks = model.action_head, model.action_head.vl_self_attention_cfg
    if not head.use_vlln:
        return Part(0, 0, 4)
    d, x, n, layers = blocks.inner_dim, mode.operand, mode.full, blocks.num_layers
    parameters = 2 * head.backbone_embedding_dim + layers * (12 * d * d + 13 * d)
    each = 2 * n * d + mode.qkv(d) + 4 * x * d + 4 * x * d + 6 * mode.mask * d + mode.tuned * (x + 4 * x) * d
    adapters = layers * 3 * mode.rank * 2 * d
    return Part(
        parameters=parameters,
        trained=mode.tuned * parameters,
        width=4,
        adapters=adapters,
        adapted=layers * 3 * d * d if mode.rank else 0,
        copies=2 * (layers * 12 * d * d + adapters) if x == 2 else 0,
        activations=tokens * (layers * each + n * d),
    )


def _language(model: Sections, mode: Mode, tokens: int) -> Part:
    """Qwen3, cut to the layers that are used. Its norms are in float32 whatever the weights are."""
    text, layers = model.eagle.text_config, model.backbone.select_layer
    d, m, size = text["hidden_size"], text["intermediate_size"], text["head_dim"]
    q, kv = text["num_attention_heads"] * size, text["num_key_value_heads"] * size
    x, bias = mode.operand, (q + 2 * kv + d) if text.get("attention_bias") else 0
    each = 2 * d * q + 2 * d * kv + bias + 2 * size + 3 * d * m + 2 * d
    parameters = text["vocab_size"] * d + layers * each + d
    # The two norms; queries, keys and values around their norms and in attention; the gated MLP.
    kept = 8 * d + mode.qkv(d) + (4 + 2 * x) * (q + kv) + 3 * x * m + mode.tuned * x * (3 * d + q + kv + m)
    return Part(
        parameters=parameters,
        trained=mode.tuned * parameters,
        width=model.eagle.width,
        adapters=layers * mode.rank * (3 * d + q + 2 * kv),
        adapted=layers * d * (q + 2 * kv) if mode.rank else 0,
        copies=2 * layers * mode.rank * (3 * d + q + 2 * kv) if tokens else 0,
        activations=tokens * (layers * kept + (4 + mode.tuned * x) * d),
    )


def _vision(model: Sections, mode: Mode, patches: int) -> Part:
    """SigLIP, with the pooling head that is never used, and the connector to the language model."""
    vision, out = model.eagle.vision_config, model.eagle.text_config["hidden_size"]
    d, m, layers = vision["hidden_size"], vision["intermediate_size"], vision["num_hidden_layers"]
    x, n, pixels = mode.operand, mode.full, 3 * vision["patch_size"] ** 2
    attention, mlp = 4 * (d * d + d), 2 * d * m + m + d
    embeddings = pixels * d + d + model.eagle.image_tokens * d
    pooling = d + attention + 2 * d + mlp
    parameters = embeddings + layers * (attention + mlp + 4 * d) + 2 * d + pooling + d * out + out
    each = 2 * n * d + mode.qkv(d) + 4 * x * d + x * m + mode.tuned * x * (d + m)
    adapters = layers * 3 * mode.rank * 2 * d
    return Part(
        parameters=parameters,
        trained=mode.tuned * parameters,
        width=model.eagle.width,
        adapters=adapters,
        adapted=layers * 3 * d * d if mode.rank else 0,
        copies=2 * adapters if patches else 0,
        activations=patches * (layers * each + n * d + mode.tuned * x * (pixels + d)),
    )
