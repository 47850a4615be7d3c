"""How many floating-point operations a training step of GR00T N1.7 has to do, counted as ``bench.flops`` does.

Per image of P patches, merged four by four: the vision tower as N1.5's, its merger and those of the deepstack,
2·(P/4)·((4·d)² + 4·d·(width of the language model)) each. Language model, ``vl_self_attention``, DiT and the encoders
are those of N1.5 with other sizes; the DiT's cross-attention is counted over the whole prompt, of which each block sees
the text or the images.
"""

from __future__ import annotations

from bench.flops import Work, diffusion, language_layer, mixing_block, of_step, projector
from trainer.gr00t.n17.sections import ModelConfig


def parts(config: ModelConfig, tokens: int, images: int, patches: int) -> dict[str, Work]:
    """The forward's work for one sample with a prompt of ``tokens`` tokens and ``images`` images, ``patches`` each."""
    qwen = config.qwen3_vl_config
    vision, text = qwen.vision_config, qwen.text_config
    d, mlp, merge = vision["hidden_size"], vision["intermediate_size"], vision.get("spatial_merge_size", 2) ** 2
    pixels = vision.get("in_channels", 3) * vision.get("temporal_patch_size", 2) * vision["patch_size"] ** 2
    p = patches
    layer = Work(2 * p * (4 * d**2 + 2 * d * mlp), 4 * p**2 * d)
    merger = Work(2 * (p // merge) * ((merge * d) ** 2 + merge * d * vision["out_hidden_size"]))
    eyes = layer.times(vision["depth"]) + merger.times(1 + len(vision["deepstack_visual_indexes"]))
    size = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    q, kv = text["num_attention_heads"] * size, text["num_key_value_heads"] * size
    language = language_layer(tokens, text["hidden_size"], q, kv, text["intermediate_size"])
    blocks = config.mixing.num_layers if config.mixing else 0
    encoders, decoder = projector(
        config.hidden_size,
        config.input_embedding_dim,
        config.action_horizon,
        config.max_state_dim * config.state_history_length,
        config.max_action_dim,
    )
    return {
        "patches": Work(2 * p * pixels * d).times(images),
        "vision": eyes.times(images),
        "language": language.times(config.select_layer),
        "mixing": mixing_block(tokens, config.backbone_embedding_dim).times(blocks),
        "diffusion": diffusion(config.dit, tokens, 1 + config.action_horizon),
        "encoders": encoders,
        "decoder": decoder,
    }


def step_flops(config: ModelConfig, *, tokens: int, images: int, patches: int, **tuned: bool) -> float:
    """Operations of one training step per sample: forward, and backward as far as the tune flags ask for it."""
    return of_step(parts(config, tokens, images, patches), tune_vlln=config.tune_vlln, **tuned)
