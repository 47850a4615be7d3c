"""The random draws of flow matching, known from the step alone."""

from __future__ import annotations

from typing import Protocol

import torch

from trainer.data.dataset import stable_hash


class FlowMatching(Protocol):
    """The action head of any generation: each has its distribution of times."""

    def sample_time(self, batch: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """Times [batch] of a training step."""
        ...


def draw_noise(
    head: FlowMatching, action: torch.Tensor, *, seed: int, step: int, first: int, samples_per_step: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise [B, T, D] and times [B] for the samples ``first`` … ``first + B - 1`` of optimizer step ``step``.

    They are drawn for all ``samples_per_step`` samples of the step at once, and each process and each micro-batch takes
    its own. So a step trains the same on one GPU, on several, or with accumulated gradients, and whatever happened
    before it. Upstream draws from each process's global generator, which it seeds alike on every GPU: all GPUs then see
    the same noise, and more of them add less than they cost.

    ``action`` [B, T, D] gives shape, device and dtype.
    """
    with torch.random.fork_rng(devices=[]):
        # The CPU's generator only: torch.manual_seed would reset the GPUs' as well, which draw the dropout.
        torch.default_generator.manual_seed(stable_hash(("noise", seed, step)) % 2**63)
        noise = torch.randn(samples_per_step, *action.shape[1:])
        time = head.sample_time(samples_per_step, noise.device, noise.dtype)
    mine = slice(first, first + len(action))
    return _on(action.device, noise[mine]), _on(action.device, time[mine])


def _on(device: torch.device, drawn: torch.Tensor) -> torch.Tensor:
    """``drawn`` on ``device``; from pageable memory, copying to a GPU would wait for all it has been given to do."""
    return drawn.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else drawn.to(device)
