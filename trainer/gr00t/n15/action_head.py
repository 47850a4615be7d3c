"""The flow-matching action head: from backbone features and robot state to a chunk of actions.

Follows upstream's ``gr00t/model/action_head/flow_matching_action_head.py`` and the paper (arXiv 2503.14734, section
2.1): actions are learned as the velocity of a straight path from noise to the action, and sampled by Euler steps.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.distributions import Beta
from torch.nn import functional

from trainer.gr00t.n15.sections import ActionHeadConfig
from trainer.gr00t.parts.action_head import ActionHead
from trainer.gr00t.parts.chunking import Chunking
from trainer.gr00t.parts.embodiment import ActionEncoder, CategorySpecificMLP, distinct
from trainer.gr00t.parts.transformer import DiT, SelfAttentionTransformer


class FlowMatchingActionHead(ActionHead):
    """Flow matching over action chunks."""

    def __init__(self, config: ActionHeadConfig) -> None:
        super().__init__()
        self.config = config
        self.num_inference_timesteps = config.num_inference_timesteps
        self.num_timestep_buckets = config.num_timestep_buckets
        width, slots = config.input_embedding_dim, config.max_num_embodiments
        self.model = DiT(config.diffusion_model_cfg)
        self.state_encoder = CategorySpecificMLP(slots, config.max_state_dim, config.hidden_size, width)
        self.action_encoder = ActionEncoder(slots, config.action_dim, width)
        self.action_decoder = CategorySpecificMLP(slots, config.hidden_size, config.hidden_size, config.action_dim)
        self.future_tokens = nn.Embedding(config.num_target_vision_tokens, width)
        nn.init.normal_(self.future_tokens.weight, std=0.02)
        self.vlln = nn.LayerNorm(config.backbone_embedding_dim) if config.use_vlln else nn.Identity()
        self.vl_self_attention = (
            SelfAttentionTransformer(config.vl_self_attention_cfg) if config.use_vlln else nn.Identity()
        )
        if config.add_pos_embed:
            self.position_embedding = nn.Embedding(config.max_seq_len, width)
            nn.init.normal_(self.position_embedding.weight, std=0.02)

    def set_trainable(self, tune_projector: bool, tune_diffusion_model: bool) -> None:
        """Freeze encoders, decoder and positions unless ``tune_projector``, the DiT unless ``tune_diffusion_model``.

        ``vlln``, ``vl_self_attention`` and ``future_tokens`` are always trained, as upstream.
        """
        self.requires_grad_(True)
        for part in (self.state_encoder, self.action_encoder, self.action_decoder):
            part.requires_grad_(tune_projector)
        if self.config.add_pos_embed:
            self.position_embedding.requires_grad_(tune_projector)
        self.model.requires_grad_(tune_diffusion_model)
        self.train(self.training)

    def sample_time(self, batch: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """Times [B] of a training step: (s - x) / s with x from a Beta distribution, so early times are frequent."""
        beta = Beta(self.config.noise_beta_alpha, self.config.noise_beta_beta)
        return (self.config.noise_s - beta.sample((batch,)).to(device, dtype)) / self.config.noise_s

    def context(self, features: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Backbone features [B, N, width] as the DiT attends to them; those where ``mask`` [B, N] is false, by none."""
        normed = self.vlln(features.to(self.dtype))
        return self.vl_self_attention(normed, mask) if self.config.use_vlln else normed

    def velocity(
        self,
        context: torch.Tensor,
        state: torch.Tensor,
        actions: torch.Tensor,
        buckets: torch.Tensor,
        embodiment_id: torch.Tensor,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Velocity [B, T, D] of noisy ``actions`` [B, T, D] at time ``buckets`` [B].

        ``state`` is the encoded state [B, 1, width], ``context`` what the method of that name gives, with its ``mask``.
        """
        tokens = self.action_encoder(actions, buckets, embodiment_id)
        if self.config.add_pos_embed:
            tokens = tokens + self.position_embedding.weight[: tokens.shape[1]]
        future = self.future_tokens.weight.expand(tokens.shape[0], -1, -1)
        hidden = self.model(torch.cat([state, future, tokens], dim=1), context, buckets, mask)
        return self.action_decoder(hidden[:, -actions.shape[1] :], embodiment_id)

    def forward(
        self,
        features: torch.Tensor,
        state: torch.Tensor,
        action: torch.Tensor,
        action_mask: torch.Tensor,
        embodiment_id: torch.Tensor,
        noise: torch.Tensor | None = None,
        time: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        one_embodiment: bool | None = None,
    ) -> dict[str, torch.Tensor]:
        """The training loss: mean squared error of the velocity over the ``action_mask`` of the whole batch.

        Shapes: features [B, N, width], state [B, 1, S], action and action_mask [B, T, D], embodiment_id [B]. ``mask``
        [B, N] is true for the features attended to; None means all. ``one_embodiment`` tells whether all of
        ``embodiment_id`` are equal, where that is known.
        ``noise`` [B, T, D] and ``time`` [B] replace the draws from torch's global generator (noise first, then time).
        Returns ``loss`` and ``predicted_velocity`` [B, T, D].
        """
        context, embodiment_id = self.context(features, mask), distinct(embodiment_id, one_embodiment)
        noisy, noise, buckets = self.noised(action, noise, time)
        encoded = self.state_encoder(state, embodiment_id)
        predicted = self.velocity(context, encoded, noisy, buckets, embodiment_id, mask)
        error = functional.mse_loss(predicted.float(), (action - noise).float(), reduction="none") * action_mask
        return {"loss": error.sum() / action_mask.sum(), "predicted_velocity": predicted}

    @torch.no_grad()
    def get_action(
        self,
        features: torch.Tensor,
        state: torch.Tensor,
        embodiment_id: torch.Tensor,
        noise: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        chunking: Chunking | None = None,
        one_embodiment: bool | None = None,
    ) -> torch.Tensor:
        """Normalised actions [B, T, D], by ``num_inference_timesteps`` Euler steps from noise.

        ``noise`` [B, T, D] replaces the draw from torch's global generator; ``mask`` [B, N] and ``one_embodiment`` as
        in ``forward``. ``chunking`` continues an earlier chunk, as N1.7's head does; upstream's N1.5 has none.
        """
        context, embodiment_id = self.context(features, mask), distinct(embodiment_id, one_embodiment)
        encoded = self.state_encoder(state, embodiment_id)
        shape = (len(state), self.config.action_horizon, self.config.action_dim)
        start = torch.randn(shape, dtype=context.dtype, device=context.device) if noise is None else noise

        def velocity(actions: torch.Tensor, buckets: torch.Tensor) -> torch.Tensor:
            return self.velocity(context, encoded, actions, buckets, embodiment_id, mask)

        return self.integrate(velocity, start, chunking)
