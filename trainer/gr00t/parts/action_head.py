"""What the action heads of all generations do alike: the path from noise to an action, and the steps along it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import nn

from trainer.gr00t.parts.chunking import Chunking
from trainer.gr00t.parts.embodiment import ActionEncoder, CategorySpecificMLP
from trainer.gr00t.parts.trained import has_trainable
from trainer.gr00t.parts.transformer import DiT, SelfAttentionTransformer


class ActionHead(nn.Module):
    """The base of a flow-matching head. Parts without a trained parameter run in eval mode."""

    model: DiT
    state_encoder: CategorySpecificMLP
    action_encoder: ActionEncoder
    action_decoder: CategorySpecificMLP
    vl_self_attention: SelfAttentionTransformer | nn.Identity
    num_inference_timesteps: int
    num_timestep_buckets: int

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the head's weights, which inputs are cast to."""
        return next(self.parameters()).dtype

    def train(self, mode: bool = True) -> Self:
        """Set the mode; what is frozen stays in eval mode, so that its dropout is off."""
        super().train(mode)
        for part in self.children():
            part.train(mode and has_trainable(part))
        return self

    def pieces(self) -> list[nn.Module]:
        """The head's part of ``GrootModel.pieces``."""
        blocks = [*self.model.transformer_blocks, *getattr(self.vl_self_attention, "transformer_blocks", ())]
        projector = (self.state_encoder, self.action_encoder, self.action_decoder)
        return [*blocks, *(layer for part in projector for layer in part.children())]

    def sample_time(self, batch: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """Times [B] of a training step."""
        raise NotImplementedError

    def noised(
        self, action: torch.Tensor, noise: torch.Tensor | None, time: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The point [B, T, D] at ``time`` [B] on the way from ``noise`` to ``action`` [B, T, D], the noise, and the
        bucket [B] of the time. What is None is drawn from torch's global generator, noise first.
        """
        if noise is None:
            noise = torch.randn_like(action)
        if time is None:
            time = self.sample_time(len(action), action.device, action.dtype)
        at = time[:, None, None]
        return (1 - at) * noise + at * action, noise, (time * self.num_timestep_buckets).long()

    def integrate(
        self,
        velocity: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        start: torch.Tensor,
        chunking: Chunking | None,
    ) -> torch.Tensor:
        """Actions [B, T, D] after ``num_inference_timesteps`` Euler steps from the noise ``start``, along the
        ``velocity`` of actions [B, T, D] in time buckets [B]. ``chunking`` continues an earlier chunk.
        """
        actions, factors, steps = start, None, self.num_inference_timesteps
        if chunking is not None:
            actions, factors = chunking.begin(actions)
        for step in range(steps):
            bucket = int(step / steps * self.num_timestep_buckets)
            buckets = torch.full((len(actions),), bucket, device=actions.device)
            along = velocity(actions, buckets)
            actions = actions + (along if factors is None else along * factors) / steps
        return actions
