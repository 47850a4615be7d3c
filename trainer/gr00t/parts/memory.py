"""What the parts that generations share hold in memory in a training: counted from sizes, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from trainer.gr00t.parts.sections import DiTConfig, TransformerConfig


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

    piece: int = 0
    """Of ``parameters``, the most that are gathered at a time with FSDP (``pieces`` of the model)."""

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


class Projector(NamedTuple):
    """The encoders of states and actions, the decoder of actions and the position embedding."""

    slots: int
    states: int
    actions: int
    hidden: int
    width: int
    positions: int
    tuned: bool

    @property
    def parameters(self) -> int:
        """How many it has."""
        h, w = self.hidden, self.width
        state = self.slots * ((self.states + 1) * h + (h + 1) * w)
        action = self.slots * ((self.actions + 1) * w + (2 * w + 1) * w + (w + 1) * w)
        decoder = self.slots * ((h + 1) * h + (h + 1) * self.actions)
        return state + action + decoder + self.positions * w


def action_head(
    dit: DiTConfig, mode: Mode, projector: Projector, *, queries: int, tokens: int, future: int = 0
) -> Part:
    """DiT and projector: ``queries`` tokens of states and actions attend to ``tokens`` of features, of the whole batch.

    ``future`` are learned tokens among the former.
    """
    e, c, x, n = dit.inner_dim, dit.cross_attention_dim, mode.operand, mode.full
    h, w, actions = projector.hidden, projector.width, projector.actions
    alone = dit.num_layers // 2 if dit.interleave_self_attention else 0
    crossing = dit.num_layers - alone

    def block(context: int) -> int:
        """Adaptive norm; queries and output, keys and values; feed-forward."""
        return 2 * (e * e + e) + 2 * e * e + 2 * e + 2 * (context + 1) * e + 8 * e * e + 5 * e

    largest = max(block(c), block(e), w * w * 2 * projector.slots + projector.slots * w)
    ends = (256 * e + e) + (e * e + e) + (2 * e * e + 2 * e) + (e + 1) * dit.output_dim
    diffusion = alone * block(e) + crossing * block(c) + ends
    learned = future * w
    trained = mode.tuned * diffusion + projector.tuned * projector.parameters + (0 if mode.rank else learned)

    # Norms' inputs and attention's; what GELU and its two linear layers read; dropout on attention, GELU and the end.
    every = 2 * n * e + mode.qkv(e, 1) + 2 * x * e + 4 * x * e + 6 * mode.mask * e + mode.tuned * (n + x + 4 * x) * e
    kept = dit.num_layers * queries * every
    kept += alone * queries * (mode.qkv(e, 2) + 2 * x * e) + crossing * tokens * (mode.qkv(c, 2) + 2 * x * e)
    kept += queries * (n + mode.tuned * (n + x)) * e
    adapters = mode.rank * (dit.num_layers * 2 * e + alone * 4 * e + crossing * 2 * (c + e))
    products = dit.num_layers * 10 * e * e + 2 * e * (alone * e + crossing * c) + e * dit.output_dim
    products += mode.tuned * ((dit.num_layers + 1) * 2 * e * e + e * e)
    products += h * h + h * actions + projector.tuned * (3 * w * w + h * w) + adapters
    return Part(
        parameters=diffusion + projector.parameters + learned,
        trained=trained,
        width=4,
        adapters=adapters,
        adapted=(dit.num_layers * e * e + 2 * e * (alone * e + crossing * c)) if mode.rank else 0,
        copies=2 * products if x == 2 else 0,
        activations=kept,
        piece=largest,
    )


def mixing_blocks(blocks: TransformerConfig, mode: Mode, width: int, tokens: int) -> Part:
    """The norm over the features, ``width`` wide, and the transformer blocks after it."""
    d, x, n, layers = blocks.inner_dim, mode.operand, mode.full, blocks.num_layers
    parameters = 2 * width + layers * (12 * d * d + 13 * d)
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
        piece=12 * d * d + 13 * d,
    )
