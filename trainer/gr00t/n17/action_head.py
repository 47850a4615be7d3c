"""The flow-matching action head of N1.7: from backbone features and robot state to a chunk of actions.

Follows upstream's ``gr00t/model/gr00t_n1d7/gr00t_n1d7.py``. It is N1.5's without future tokens; the DiT's
cross-attention takes turns between the prompt's text and its images (``AlternateVLDiT``), times end at 0.999, and the
state may be dropped out.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.distributions import Beta
from torch.nn import functional

from trainer.gr00t.n17.sections import ModelConfig
from trainer.gr00t.parts.action_head import ActionHead
from trainer.gr00t.parts.chunking import Chunking
from trainer.gr00t.parts.embodiment import ActionEncoder, CategorySpecificMLP, distinct
from trainer.gr00t.parts.transformer import DiT, SelfAttentionTransformer


class Context(NamedTuple):
    """What the DiT attends to."""

    features: torch.Tensor
    """[B, N, width]"""
    masks: list[torch.Tensor | None]
    """For each block, the features [B, N] that its cross-attention sees; None means all."""


class FlowMatchingActionHead(ActionHead):
    """Flow matching over action chunks."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.num_inference_timesteps = config.num_inference_timesteps
        self.num_timestep_buckets = config.num_timestep_buckets
        width, slots, hidden = config.input_embedding_dim, config.max_num_embodiments, config.hidden_size
        states = config.max_state_dim * config.state_history_length
        self.model = DiT(config.dit)
        self.state_encoder = CategorySpecificMLP(slots, states, hidden, width)
        self.action_encoder = ActionEncoder(slots, config.max_action_dim, width)
        self.action_decoder = CategorySpecificMLP(slots, hidden, hidden, config.max_action_dim)
        self.vlln = nn.LayerNorm(config.backbone_embedding_dim) if config.use_vlln else nn.Identity()
        self.vl_self_attention = SelfAttentionTransformer(config.mixing) if config.mixing else nn.Identity()
        if config.add_pos_embed:
            self.position_embedding = nn.Embedding(config.max_seq_len, width)
            nn.init.normal_(self.position_embedding.weight, std=0.02)

    def set_trainable(self, tune_projector: bool, tune_diffusion_model: bool, tune_vlln: bool = True) -> None:
        """Freeze encoders, decoder and positions unless ``tune_projector``, the DiT unless ``tune_diffusion_model``,
        the norm and the blocks over the features unless ``tune_vlln``.
        """
        for part in (self.state_encoder, self.action_encoder, self.action_decoder):
            part.requires_grad_(tune_projector)
        if self.config.add_pos_embed:
            self.position_embedding.requires_grad_(tune_projector)
        self.model.requires_grad_(tune_diffusion_model)
        for part in (self.vlln, self.vl_self_attention):
            part.requires_grad_(tune_vlln)
        self.train(self.training)

    def sample_time(self, batch: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """Times [B] of a training step: (1 - x) s with x from a Beta distribution, so early times are frequent."""
        beta = Beta(self.config.noise_beta_alpha, self.config.noise_beta_beta)
        return (1 - beta.sample((batch,)).to(device, dtype)) * self.config.noise_s

    def context(self, features: torch.Tensor, images: torch.Tensor, mask: torch.Tensor | None = None) -> Context:
        """Backbone features [B, N, width] as the DiT attends to them. ``images`` [B, N] is true for image tokens,
        ``mask`` [B, N] for those that are no padding; None means all.

        Upstream masks padding in the DiT, but not in the blocks before it (``upstream_exact``).
        """
        hidden = self.vlln(features.to(self.dtype))
        if self.config.mixing is not None:
            hidden = self.vl_self_attention(hidden, None if self.config.upstream_exact else mask)
        blocks = self.config.dit.num_layers
        if not self.config.use_alternate_vl_dit:
            return Context(hidden, [None if self.config.upstream_exact else mask] * blocks)
        text, every = ~images if mask is None else ~images & mask, 2 * self.config.attend_text_every_n_blocks
        return Context(hidden, [text if block % every == 0 else images for block in range(blocks)])

    def encode_state(
        self, state: torch.Tensor, embodiment_id: torch.Tensor, keep: torch.Tensor | None = None
    ) -> torch.Tensor:
        """States [B, history, D] as one token [B, 1, width]; a zero of ``keep`` [B] takes a sample's state away."""
        token = self.state_encoder(state.flatten(1).unsqueeze(1), embodiment_id)
        return token if keep is None else token * keep[:, None, None].to(token.dtype)

    def velocity(
        self,
        context: Context,
        state: torch.Tensor,
        actions: torch.Tensor,
        buckets: torch.Tensor,
        embodiment_id: torch.Tensor,
    ) -> torch.Tensor:
        """Velocity [B, T, D] of noisy ``actions`` [B, T, D] at time ``buckets`` [B]; ``state`` is the encoded one."""
        tokens = self.action_encoder(actions, buckets, embodiment_id)
        if self.config.add_pos_embed:
            tokens = tokens + self.position_embedding.weight[: tokens.shape[1]]
        hidden = self.model(torch.cat([state, tokens], dim=1), context.features, buckets, context.masks)
        return self.action_decoder(hidden[:, -actions.shape[1] :], embodiment_id)

    def forward(
        self,
        context: Context,
        state: torch.Tensor,
        action: torch.Tensor,
        action_mask: torch.Tensor,
        embodiment_id: torch.Tensor,
        noise: torch.Tensor | None = None,
        time: torch.Tensor | None = None,
        keep_state: torch.Tensor | None = None,
        one_embodiment: bool | None = None,
    ) -> dict[str, torch.Tensor]:
        """The training loss: mean squared error of the velocity over the ``action_mask`` of the whole batch.

        Shapes: state [B, history, S], action and action_mask [B, T, D], embodiment_id [B]. ``one_embodiment`` tells
        whether all of ``embodiment_id`` are equal, where that is known. ``noise`` [B, T, D], ``time`` [B] and
        ``keep_state`` [B] (0 drops a state, 1 keeps it) replace the draws from torch's global generator, of which
        state dropout is the first and only made in training. Returns ``loss`` and ``predicted_velocity`` [B, T, D].
        """
        embodiment_id = distinct(embodiment_id, one_embodiment)
        if keep_state is None and self.training and self.config.state_dropout_prob > 0:
            keep_state = torch.rand(len(state), device=state.device) >= self.config.state_dropout_prob
        encoded = self.encode_state(state, embodiment_id, keep_state)
        noisy, noise, buckets = self.noised(action, noise, time)
        predicted = self.velocity(context, encoded, noisy, buckets, embodiment_id)
        error = functional.mse_loss(predicted.float(), (action - noise).float(), reduction="none") * action_mask
        return {"loss": error.sum() / (action_mask.sum() + 1e-6), "predicted_velocity": predicted}

    @torch.no_grad()
    def get_action(
        self,
        context: Context,
        state: torch.Tensor,
        embodiment_id: torch.Tensor,
        noise: torch.Tensor | None = None,
        chunking: Chunking | None = None,
        one_embodiment: bool | None = None,
    ) -> torch.Tensor:
        """Normalised actions [B, T, D], by ``num_inference_timesteps`` Euler steps from noise.

        ``noise`` [B, T, D] replaces the draw from torch's global generator; ``chunking`` continues an earlier chunk.
        """
        embodiment_id = distinct(embodiment_id, one_embodiment)
        encoded = self.encode_state(state, embodiment_id)
        features, shape = context.features, (len(state), self.config.action_horizon, self.config.max_action_dim)
        start = torch.randn(shape, dtype=features.dtype, device=features.device) if noise is None else noise

        def velocity(actions: torch.Tensor, buckets: torch.Tensor) -> torch.Tensor:
            return self.velocity(context, encoded, actions, buckets, embodiment_id)

        return self.integrate(velocity, start, chunking)
