"""Layers with separate weights for each embodiment: encoders of states and actions, decoder of actions.

Follows upstream's ``gr00t/model/action_head/flow_matching_action_head.py`` and ``action_encoder.py``.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class CategorySpecificLinear(nn.Module):
    """A linear layer per embodiment: ``W`` [C, in, out], ``b`` [C, out]."""

    def __init__(self, categories: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.W = nn.Parameter(0.02 * torch.randn(categories, inputs, outputs))
        self.b = nn.Parameter(torch.zeros(categories, outputs))

    def forward(self, x: torch.Tensor, category: torch.Tensor) -> torch.Tensor:
        """[B, T, in] and embodiment ids [B], or [1] where all samples share one, to [B, T, out]."""
        if len(category) == 1:
            # The gradient of a selected row takes two kernels of a GPU; that of an indexed one sorts the indices first.
            return x @ self.W.index_select(0, category)[0] + self.b.index_select(0, category)[0]
        return torch.bmm(x, self.W[category]) + self.b[category].unsqueeze(1)


def distinct(category: torch.Tensor, one: bool | None = None) -> torch.Tensor:
    """Embodiment ids [B] as [1] where they are all equal, as they nearly always are; ``one`` tells, if it is known.

    The layers then use one matrix instead of gathering a copy of it per sample (1.2 GB at batch 32 in the 3B model).
    """
    return category[:1] if (bool((category == category[0]).all()) if one is None else one) else category


class CategorySpecificMLP(nn.Module):
    """Two category-specific layers with a ReLU between them: the state encoder and the action decoder."""

    def __init__(self, categories: int, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.layer1 = CategorySpecificLinear(categories, inputs, hidden)
        self.layer2 = CategorySpecificLinear(categories, hidden, outputs)

    def forward(self, x: torch.Tensor, category: torch.Tensor) -> torch.Tensor:
        """[B, T, in] and embodiment ids [B] to [B, T, out]."""
        return self.layer2(functional.relu(self.layer1(x, category)), category)


def sinusoid(timesteps: torch.Tensor, dim: int) -> torch.Tensor:
    """Timesteps [B] to [B, dim], sines first; the frequencies are 10000^(-2i/dim)."""
    half = dim // 2
    exponent = -torch.arange(half, dtype=torch.float32, device=timesteps.device) * (
        torch.log(torch.tensor(10000.0)) / half
    )
    angles = timesteps[:, None].float() * exponent.exp()[None]
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class ActionEncoder(nn.Module):
    """Noisy actions and their timestep to tokens, with weights per embodiment (``MultiEmbodimentActionEncoder``)."""

    def __init__(self, categories: int, action_dim: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.W1 = CategorySpecificLinear(categories, action_dim, width)
        self.W2 = CategorySpecificLinear(categories, 2 * width, width)
        self.W3 = CategorySpecificLinear(categories, width, width)

    def forward(self, actions: torch.Tensor, timesteps: torch.Tensor, category: torch.Tensor) -> torch.Tensor:
        """Actions [B, T, D], buckets [B] and embodiment ids [B] to [B, T, width]."""
        embedded = self.W1(actions, category)
        time = sinusoid(timesteps, self.width)[:, None].expand(-1, actions.shape[1], -1).to(embedded.dtype)
        return self.W3(functional.silu(self.W2(torch.cat([embedded, time], dim=-1), category)), category)
