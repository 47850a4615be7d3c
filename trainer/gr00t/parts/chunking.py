"""Real-time chunking: a chunk of actions that continues the one the robot is still carrying out.

As in upstream's ``get_action`` of N1.7; the idea is of Black et al., "Real-Time Execution of Action Chunking Flow
Policies" (arXiv 2506.07339).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trainer.errors import UsageError


@dataclass(frozen=True)
class Chunking:
    """What the new chunk takes over from the one before it. Raises ``UsageError`` for steps that contradict."""

    previous: torch.Tensor
    """The earlier chunk, normalised, [B, H, D]."""
    horizon: int
    """Steps of the earlier chunk that count, from its start (upstream's ``action_horizon``)."""
    overlap: int
    """Steps at that chunk's end that the new one begins with (``rtc_overlap_steps``)."""
    frozen: int
    """Of these, the first ones that stay as they are (``rtc_frozen_steps``)."""
    ramp_rate: float
    """How fast the steps after them become free to change (``rtc_ramp_rate``)."""

    def __post_init__(self) -> None:
        if not 0 <= self.frozen <= self.overlap <= self.horizon <= self.previous.shape[1] or self.ramp_rate <= 0:
            raise UsageError(
                f"Chunking with {self.frozen} frozen of {self.overlap} overlapping steps, a horizon of {self.horizon}, "
                f"{self.previous.shape[1]} earlier steps and a ramp rate of {self.ramp_rate} is impossible.",
                "frozen <= overlap <= horizon <= the earlier chunk's steps, and the ramp rate is above 0.",
            )

    def begin(self, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The start [B, T, D] in place of ``noise``, and by how much each step follows its velocity, [1, T, 1]."""
        if self.overlap > noise.shape[1]:
            raise UsageError(f"The overlap is {self.overlap} steps; a chunk has {noise.shape[1]}.", "Take less.")
        start = noise.clone()
        start[:, : self.overlap] = self.previous[:, self.horizon - self.overlap : self.horizon].to(noise)
        factors = torch.ones(noise.shape[1], dtype=noise.dtype, device=noise.device)
        factors[: self.frozen] = 0
        between = torch.linspace(0, 1, self.overlap - self.frozen + 2, dtype=noise.dtype, device=noise.device)[1:-1]
        rate = torch.full((), self.ramp_rate, dtype=noise.dtype, device=noise.device)
        factors[self.frozen : self.overlap] = (1 - torch.exp(-rate * between)) / (1 - torch.exp(-rate))
        return start, factors[None, :, None]
