"""Transformer blocks of the action head: the diffusion transformer (DiT) and the blocks over the backbone's features.

Follows upstream's ``gr00t/model/action_head/cross_attention_dit.py`` and the diffusers modules it is built from
(``Attention``, ``FeedForward``, ``AdaLayerNorm``), with their parameter names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from trainer.gr00t.parts.sections import DiTConfig, TransformerConfig


class Attention(nn.Module):
    """Multi-head attention with biases; keys and values from ``context`` (cross-attention) or from ``x`` itself."""

    def __init__(self, dim: int, context_dim: int, heads: int, head_dim: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_dim
        self.to_q = nn.Linear(dim, inner)
        self.to_k = nn.Linear(context_dim, inner)
        self.to_v = nn.Linear(context_dim, inner)
        self.to_out = nn.ModuleList([nn.Linear(inner, dim), nn.Dropout(dropout)])

    def forward(
        self, x: torch.Tensor, context: torch.Tensor | None = None, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[B, N, dim], attending to ``context`` [B, M, context_dim] or to itself, where ``mask`` [B, M] is true."""
        context = x if context is None else context
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        keys = None if mask is None else mask[:, None, None, :]
        out = functional.scaled_dot_product_attention(query, key, value, attn_mask=keys).transpose(1, 2).flatten(2)
        for layer in self.to_out:
            out = layer(out)
        return out


class GELUProjection(nn.Module):
    """Linear layer and tanh-approximated GELU."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, inner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[…, dim] to […, inner]."""
        return functional.gelu(self.proj(x), approximate="tanh")


class FeedForward(nn.Module):
    """Two linear layers, four times as wide between them."""

    def __init__(self, dim: int, dropout: float, final_dropout: bool) -> None:
        super().__init__()
        self.net = nn.ModuleList([GELUProjection(dim, 4 * dim), nn.Dropout(dropout), nn.Linear(4 * dim, dim)])
        if final_dropout:
            self.net.append(nn.Dropout(dropout))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[…, dim] to […, dim]."""
        for layer in self.net:
            x = layer(x)
        return x


class AdaLayerNorm(nn.Module):
    """LayerNorm whose scale and shift come from the timestep embedding."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, 2 * dim)
        self.norm = nn.LayerNorm(dim, eps=1e-5, elementwise_affine=False)

    def forward(self, x: torch.Tensor, temb: torch.Tensor) -> torch.Tensor:
        """[B, N, dim], given timestep embeddings [B, dim]."""
        scale, shift = self.linear(functional.silu(temb)).unsqueeze(1).chunk(2, dim=-1)
        return self.norm(x) * (1 + scale) + shift


class Block(nn.Module):
    """Attention and feed-forward, each behind a norm and around a residual.

    With ``adaptive`` (DiT) ``norm1`` is an ``AdaLayerNorm`` and ``norm3`` has no parameters; without, both are affine.
    """

    def __init__(self, config: TransformerConfig, context_dim: int, adaptive: bool) -> None:
        super().__init__()
        dim = config.inner_dim
        self.adaptive = adaptive
        self.norm1 = AdaLayerNorm(dim) if adaptive else nn.LayerNorm(dim, eps=1e-5)
        # Upstream drops out attention's output twice in a row; once is the same, and spares a pass over it.
        twice = 1 - (1 - config.dropout) ** 2
        inner, last = (0.0, nn.Dropout(twice)) if config.final_dropout else (config.dropout, nn.Identity())
        self.attn1 = Attention(dim, context_dim, config.num_attention_heads, config.attention_head_dim, inner)
        self.norm3 = nn.LayerNorm(dim, eps=1e-5, elementwise_affine=not adaptive)
        self.ff = FeedForward(dim, config.dropout, config.final_dropout)
        self.final_dropout = last

    def forward(
        self,
        x: torch.Tensor,
        context: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[B, N, dim], given ``context`` [B, M, context_dim] for cross-attention and ``temb`` [B, dim] if adaptive.

        ``mask`` [B, M] is true for the tokens attended to.
        """
        normed = self.norm1(x, temb) if self.adaptive else self.norm1(x)
        x = x + self.final_dropout(self.attn1(normed, context, mask))
        return x + self.ff(self.norm3(x))


class SelfAttentionTransformer(nn.Module):
    """``vl_self_attention``: blocks over the backbone's features, without positions, as upstream."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.transformer_blocks = nn.ModuleList(
            Block(config, config.inner_dim, adaptive=False) for _ in range(config.num_layers)
        )

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """[B, N, dim] to [B, N, dim], attending to the tokens where ``mask`` [B, N] is true."""
        for block in self.transformer_blocks:
            x = block(x, mask=mask)
        return x


class TimestepEmbedding(nn.Module):
    """Two linear layers over a sinusoid of the timestep."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(channels, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, channels] to [B, dim]."""
        return self.linear_2(functional.silu(self.linear_1(x)))


class TimestepEncoder(nn.Module):
    """Timestep bucket to embedding; the sinusoid has 256 channels, cosines first."""

    CHANNELS = 256

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.timestep_embedder = TimestepEmbedding(self.CHANNELS, dim)

    def forward(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Integer buckets [B] to [B, dim]."""
        half = self.CHANNELS // 2
        exponent = -math.log(10000) * torch.arange(half, dtype=torch.float32, device=timesteps.device) / (half - 1)
        angles = timesteps[:, None].float() * exponent.exp()[None]
        sinusoid = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return self.timestep_embedder(sinusoid.to(self.timestep_embedder.linear_1.weight.dtype))


class DiT(nn.Module):
    """The diffusion transformer: blocks that cross-attend to the backbone's features, every other one to themselves."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        dim = config.inner_dim
        self.timestep_encoder = TimestepEncoder(dim)
        self.transformer_blocks = nn.ModuleList(
            Block(config, dim if self._self_attends(config, index) else config.cross_attention_dim, adaptive=True)
            for index in range(config.num_layers)
        )
        self.attends_to_itself = [self._self_attends(config, index) for index in range(config.num_layers)]
        self.norm_out = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.proj_out_1 = nn.Linear(dim, 2 * dim)
        self.proj_out_2 = nn.Linear(dim, config.output_dim)

    @staticmethod
    def _self_attends(config: DiTConfig, index: int) -> bool:
        return config.interleave_self_attention and index % 2 == 1

    def forward(
        self,
        x: torch.Tensor,
        context: torch.Tensor,
        timesteps: torch.Tensor,
        mask: torch.Tensor | Sequence[torch.Tensor | None] | None = None,
    ) -> torch.Tensor:
        """Tokens [B, T, dim], features [B, N, cross_attention_dim], buckets [B] to [B, T, output_dim].

        ``mask`` [B, N] is true for the features attended to; a sequence has one for each block.
        """
        temb = self.timestep_encoder(timesteps)
        masks = mask if isinstance(mask, Sequence) else [mask] * len(self.transformer_blocks)
        for block, itself, keys in zip(self.transformer_blocks, self.attends_to_itself, masks, strict=True):
            x = block(x, None if itself else context, temb, None if itself else keys)
        # Shift before scale here, unlike in AdaLayerNorm.
        shift, scale = self.proj_out_1(functional.silu(temb)).unsqueeze(1).chunk(2, dim=-1)
        return self.proj_out_2(self.norm_out(x) * (1 + scale) + shift)
