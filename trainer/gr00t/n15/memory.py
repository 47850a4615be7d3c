"""What a training of GR00T N1.5 holds in memory, by part of the model: counted from its sizes, without torch.

Parameters are exact, and with them gradients and AdamW's moments. Activations are the tensors autograd keeps for the
backward pass, added up layer by layer as the engine trains on a GPU: bf16 autocast, attention that keeps no scores, no
gradient checkpointing, frozen parts without a graph. ``tests/trainer/gr00t/test_memory.py`` holds both against the
full-size model on fake tensors.
"""

from __future__ import annotations

from trainer.config.finetune_config import FinetuneConfig
from trainer.data.configs import get_data_config
from trainer.gr00t.n15.sections import Sections
from trainer.gr00t.parts.memory import Mode, Part, Projector, action_head, mixing_blocks

TEXT_TOKENS = 19 + 10
"""Tokens of a prompt beside its images: the frame of the conversation, and an instruction of ten. Each image adds 7 to
those of its patches."""


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
    head = model.action_head
    return action_head(
        head.diffusion_model_cfg,
        mode,
        Projector(
            slots=head.max_num_embodiments,
            states=head.max_state_dim,
            actions=actions,
            hidden=head.hidden_size,
            width=head.input_embedding_dim,
            positions=head.max_seq_len if head.add_pos_embed else 0,
            tuned=config.tune_projector,
        ),
        queries=config.batch_size * (1 + head.num_target_vision_tokens + horizon),
        future=head.num_target_vision_tokens,
        tokens=tokens,
    )


def _mixing(model: Sections, mode: Mode, tokens: int) -> Part:
    """``vlln`` and ``vl_self_attention``, which no flag freezes."""
    head = model.action_head
    if not head.use_vlln:
        return Part(0, 0, 4)
    return mixing_blocks(head.vl_self_attention_cfg, mode, head.backbone_embedding_dim, tokens)


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
        piece=max(text["vocab_size"] * d, each),
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
        piece=attention + mlp + 4 * d,
    )
