"""How many floating-point operations a training step of GR00T N1.5 has to do: the arithmetic behind its utilisation.

Only matrix products count; a product of [m, k] and [k, n] is 2·m·k·n. With d the width, N the tokens of a prompt,
P those of an image, T = 1 + future tokens + action horizon those of the action head, per sample and forward:

- vision tower, per image: patches 2·P·(3·14²)·d, and per layer 2·P·(4·d² + 2·d·mlp) + 4·P²·d (scores, and what is
  attended to); then the connector 2·P·d·(width of the language model);
- language model, per layer: 2·N·d·(2·q + 2·kv) + 2·N·3·d·mlp + 4·N²·q, with q and kv the heads times their width. The
  causal half is counted whole, as it is usual;
- ``vl_self_attention``, per block: 2·N·(4 + 8)·d² + 4·N²·d;
- DiT, per block: queries, output and feed-forward 2·T·(2 + 8)·d², its norm 2·2·d², and attending to itself
  2·T·2·d² + 4·T²·d, or to the features 2·N·2·d·(their width) + 4·T·N·d;
- encoders and decoder of states and actions: as the layers they are.

Backward, the gradients of weights cost as much as the forward's products with weights, those of inputs as much again;
the attention's own products cost twice. A part that is frozen has no gradients of weights; one that nothing trained
lies before has none at all. Work that is done again (recomputation) is not counted: it is not of use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trainer.gr00t.n15.config import GR00TN15Config
from trainer.gr00t.parts.sections import DiTConfig

PEAK_TFLOPS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "4090": 165}
"""bf16 with dense matrices, of data sheets (SXM where there are several), by a part of the device's name."""


@dataclass(frozen=True)
class Work:
    """Operations of a part's forward: products with weights, and of attention."""

    weights: float = 0.0
    attention: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.weights + other.weights, self.attention + other.attention)

    def times(self, count: float) -> Work:
        """That many of them."""
        return Work(self.weights * count, self.attention * count)

    def step(self, *, trained: bool, reached: bool) -> float:
        """Forward and backward, when the part is ``trained``, and whether gradients have to pass through it."""
        gradients = trained * self.weights + (trained or reached) * (self.weights + 2 * self.attention)
        return self.weights + self.attention + gradients


def parts(config: GR00TN15Config, tokens: int, images: int) -> dict[str, Work]:
    """The forward's work for one sample with a prompt of ``tokens`` tokens and ``images`` images."""
    vision, head = config.eagle.siglip(), config.action_head
    text = config.eagle.qwen3(config.backbone.select_layer, "sdpa")
    pixels = config.eagle.vision_config["patch_size"] ** 2
    n, p, d = tokens, config.eagle.image_tokens, vision.hidden_size
    layer = Work(2 * p * (4 * d**2 + 2 * d * vision.intermediate_size), 4 * p**2 * d)
    patches = Work(2 * p * 3 * pixels * d)
    eyes = layer.times(vision.num_hidden_layers) + Work(2 * p * d * text.hidden_size)

    q = text.num_attention_heads * text.head_dim
    kv = config.eagle.text_config["num_key_value_heads"] * text.head_dim
    blocks = head.vl_self_attention_cfg.num_layers if head.use_vlln else 0
    actions = 1 + head.num_target_vision_tokens + head.action_horizon
    encoders, decoder = projector(
        head.hidden_size, head.input_embedding_dim, head.action_horizon, head.max_state_dim, head.action_dim
    )
    return {
        "patches": patches.times(images),
        "vision": eyes.times(images),
        "language": language_layer(n, text.hidden_size, q, kv, text.intermediate_size).times(text.num_hidden_layers),
        "mixing": mixing_block(n, head.backbone_embedding_dim).times(blocks),
        "diffusion": diffusion(head.diffusion_model_cfg, n, actions),
        "encoders": encoders,
        "decoder": decoder,
    }


def language_layer(tokens: int, width: int, queries: int, values: int, mlp: int) -> Work:
    """A layer of Qwen3 with so many dimensions of queries, and of keys and values."""
    return Work(2 * tokens * width * (2 * queries + 2 * values + 3 * mlp), 4 * tokens**2 * queries)


def mixing_block(tokens: int, width: int) -> Work:
    """A block over the features."""
    return Work(2 * tokens * 12 * width**2, 4 * tokens**2 * width)


def diffusion(dit: DiTConfig, tokens: int, actions: int) -> Work:
    """The DiT: ``actions`` tokens that attend to themselves, or to ``tokens`` features."""
    t, e = actions, dit.inner_dim
    every = Work(2 * t * 10 * e**2 + 4 * e**2)
    itself = every + Work(2 * t * 2 * e**2, 4 * t**2 * e)
    features = every + Work(2 * tokens * 2 * e * dit.cross_attention_dim, 4 * t * tokens * e)
    alone = dit.num_layers // 2 if dit.interleave_self_attention else 0
    ends = Work(2 * (256 * e + e**2) + 4 * e**2 + 2 * t * e * dit.output_dim)
    return itself.times(alone) + features.times(dit.num_layers - alone) + ends


def projector(hidden: int, width: int, horizon: int, states: int, actions: int) -> tuple[Work, Work]:
    """The encoders of states and actions, and the decoder."""
    h, w, a = hidden, width, horizon
    encoders = 2 * (states * h + h * w) + 2 * a * (actions * w + 2 * w * w + w * w)
    return Work(encoders), Work(2 * a * (h * h + h * actions))


def step_flops(config: GR00TN15Config, *, tokens: int, images: int, **tuned: bool) -> float:
    """Operations of one training step per sample: forward, and backward as far as the tune flags ask for it."""
    return of_step(parts(config, tokens, images), **tuned)


def of_step(
    work: Mapping[str, Work],
    *,
    tune_llm: bool,
    tune_visual: bool,
    tune_projector: bool,
    tune_diffusion_model: bool,
    tune_vlln: bool = True,
) -> float:
    """Operations of the forward pass ``work``, and of the backward pass as far as the tune flags ask for it."""
    return (
        work["patches"].weights * (2 if tune_visual else 1)  # the images themselves need no gradient
        + work["vision"].step(trained=tune_visual, reached=False)
        + work["language"].step(trained=tune_llm, reached=tune_visual)
        + work["mixing"].step(trained=tune_vlln, reached=True)
        + work["diffusion"].step(trained=tune_diffusion_model, reached=True)
        + work["encoders"].step(trained=tune_projector, reached=False)
        + work["decoder"].step(trained=tune_projector, reached=True)
    )


def peak_tflops(device: str) -> float | None:
    """What the device of that name can do at most, or None when it is not in ``PEAK_TFLOPS``."""
    return next((float(peak) for name, peak in PEAK_TFLOPS.items() if name in device), None)
