"""Upstream's ten AdamW steps of the golden models of both generations: with a bare optimizer, and in the engine."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import Dataset

from trainer.training import finetune_trainer


class Twice(Dataset[int]):
    """Two samples, a batch; the collator of the test knows which."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        return index

    def set_epoch(self, epoch: int) -> None:
        pass


def optimizer_steps(
    model: nn.Module, loss_of: Callable[[], torch.Tensor], steps: int, clip: float = math.inf, **options: Any
) -> tuple[list[float], list[float]]:
    """Train ``model`` with AdamW; its losses, and the norms of its gradients before they are clipped."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, **options)
    losses, norms = [], []
    for _ in range(steps):
        loss = loss_of()
        optimizer.zero_grad()
        loss.backward()
        norms.append(nn.utils.clip_grad_norm_(trained, clip).item())
        optimizer.step()
        losses.append(loss.item())
    return losses, norms


def train_ten_steps(
    trainer: finetune_trainer.FinetuneTrainer, forward: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[float], list[float]]:
    """Train with the noise and time of upstream's ``forward``, at a constant rate; losses and norms of gradients."""
    monkeypatch.setattr(finetune_trainer, "draw_noise", lambda *_, **__: (forward["noise"], forward["t"]))
    trainer.args.lr_scheduler_type = cast(Any, "constant")
    trainer.args.logging_steps = trainer.state.logging_steps = 1
    trainer.args.save_strategy = cast(Any, "no")
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    return [entry["loss"] for entry in steps], [entry["grad_norm"] for entry in steps]


def assert_weights_after_ten_steps(model: nn.Module, golden: Path) -> None:
    """Those that upstream kept."""
    state = model.state_dict()
    for name, value in load_file(golden / "adamw_after_10_steps_selected.safetensors").items():
        torch.testing.assert_close(state[name], value, atol=1e-4, rtol=0)
