"""What a training of GR00T N1.7 holds in memory, by part of the model: counted from its sizes, without torch.

As ``trainer.gr00t.n15.memory``. Parameters are exact. Everything is float32, which autocast makes bf16 copies of; what
is frozen leaves no trace.
"""

from __future__ import annotations

from trainer.config.finetune_config import FinetuneConfig
from trainer.data.configs import get_data_config
from trainer.gr00t.n17.sections import ModelConfig
from trainer.gr00t.parts.memory import Mode, Part, Projector, action_head, mixing_blocks

TEXT_TOKENS = 5 + 10
"""Tokens of a prompt beside its images: the frame of the turn, and an instruction of ten. Each image adds 2 to those of
its patches."""
IMAGE_TOKENS = 88
"""Of a camera of 640x480, whose shortest side becomes 256; a square one has 64."""


def parts(model: ModelConfig, config: FinetuneConfig, *, on_gpu: bool = True) -> list[Part]:
    """The parts of ``model`` in the order of the backward pass: action head, mixing, language model, vision tower."""
    lora, rank = config.lora_rank > 0, config.lora_rank
    full_lora = rank if config.lora_full_model else 0
    data, qwen = get_data_config(config.data_config), model.qwen3_vl_config
    merged = qwen.merge_size**2
    batch, images = config.batch_size, len(data.video) * len(data.video_delta_indices)
    tokens = batch * (TEXT_TOKENS + images * (2 + IMAGE_TOKENS))
    mask = 1 if on_gpu else 4
    drop = mask if lora and config.lora_dropout else 0
    common = {"operand": 2 if on_gpu else 4, "reads": 3 if on_gpu else 1, "lora_mask": drop}
    visual, llm = config.tune_visual and not lora, config.tune_llm and not lora

    diffusion = Mode(config.tune_diffusion_model and not lora, rank, **common)
    if (diffusion.tuned or lora) and model.diffusion_model_cfg.dropout:
        diffusion = diffusion._replace(mask=mask)
    mixing = Mode(model.tune_vlln and not lora, rank, **common)
    if model.mixing and (mixing.tuned or lora) and model.mixing.dropout:
        mixing = mixing._replace(mask=mask)
    top = 0 if llm or lora else min(model.tune_top_llm_layers, model.select_layer)
    through = llm or visual or full_lora or top
    return [
        action_head(
            model.dit,
            diffusion,
            Projector(
                slots=model.max_num_embodiments,
                states=model.max_state_dim * model.state_history_length,
                actions=model.max_action_dim,
                hidden=model.hidden_size,
                width=model.input_embedding_dim,
                positions=model.max_seq_len if model.add_pos_embed else 0,
                tuned=config.tune_projector,
            ),
            queries=batch * (1 + model.action_horizon),
            tokens=tokens,
        ),
        _mixing(model, mixing, tokens),
        _language(model, Mode(bool(llm), full_lora, **common), tokens if through else 0, top),
        _vision(model, Mode(bool(visual), full_lora, **common), batch * images * IMAGE_TOKENS * merged, visual),
    ]


def _mixing(model: ModelConfig, mode: Mode, tokens: int) -> Part:
    """``vlln`` and ``vl_self_attention``."""
    norm = 2 * model.backbone_embedding_dim if model.use_vlln else 0
    if model.mixing is None:
        return Part(norm, mode.tuned * norm, 4, activations=mode.full * tokens * model.backbone_embedding_dim)
    return mixing_blocks(model.mixing, mode, norm // 2, tokens)


def _language(model: ModelConfig, mode: Mode, tokens: int, top: int) -> Part:
    """Qwen3, cut to the layers that are used, of which the last ``top`` may be trained alone."""
    text, layers = model.qwen3_vl_config.text_config, model.select_layer
    d, m = text["hidden_size"], text["intermediate_size"]
    size = text.get("head_dim") or d // text["num_attention_heads"]
    q, kv = text["num_attention_heads"] * size, text["num_key_value_heads"] * size
    x, bias = mode.operand, (q + 2 * kv + d) if text.get("attention_bias") else 0
    products = 2 * d * q + 2 * d * kv + 3 * d * m
    each = products + bias + 2 * size + 2 * d
    parameters = text["vocab_size"] * d + layers * each + d
    # The two norms; queries, keys and values around their norms and in attention; the gated MLP.
    kept = 8 * d + mode.qkv(d) + (4 + 2 * x) * (q + kv) + 3 * x * m + mode.tuned * x * (3 * d + q + kv + m)
    graph = layers if mode.tuned or mode.rank or not top else top
    return Part(
        parameters=parameters,
        trained=mode.tuned * parameters + top * each,
        width=4,
        adapters=layers * mode.rank * (3 * d + q + 2 * kv),
        adapted=layers * d * (q + 2 * kv) if mode.rank else 0,
        copies=2 * graph * (products + mode.rank * (3 * d + q + 2 * kv)) if tokens and x == 2 else 0,
        activations=tokens * (graph * kept + mode.tuned * x * d),
        piece=max(text["vocab_size"] * d, each),
    )


def _vision(model: ModelConfig, mode: Mode, patches: int, tuned: bool) -> Part:
    """Qwen3-VL's tower, its merger and those of the deepstack."""
    vision = model.qwen3_vl_config.vision_config
    d, m, layers, out = (vision[name] for name in ("hidden_size", "intermediate_size", "depth", "out_hidden_size"))
    merge, times = model.qwen3_vl_config.merge_size, vision.get("temporal_patch_size", 2)
    pixels = vision.get("in_channels", 3) * times * vision["patch_size"] ** 2
    wide, levels = merge**2 * d, len(vision["deepstack_visual_indexes"])
    x, n = mode.operand, mode.full
    blocks = layers * (4 * (d * d + d) + 2 * d * m + m + d + 4 * d)
    merger = wide * wide + wide + wide * out + out
    mergers = (merger + 2 * d) + levels * (merger + 2 * wide)
    parameters = pixels * d + d + vision["num_position_embeddings"] * d + blocks + mergers
    each = 2 * n * d + mode.qkv(d, 1) + 4 * x * d + x * m + 2 * n * d + mode.tuned * x * (d + m)
    kept = layers * each + (1 + levels) * (n * d + x * d + mode.tuned * 2 * x * d) + mode.tuned * x * pixels
    return Part(
        parameters=parameters,
        trained=tuned * parameters,
        width=4,
        copies=2 * (layers * (4 * d * d + 2 * d * m) + (1 + levels) * (wide * wide + wide * out))
        if tuned and x == 2
        else 0,
        activations=patches * kept if tuned else 0,
        piece=max(blocks // layers, merger + 2 * wide),
    )
