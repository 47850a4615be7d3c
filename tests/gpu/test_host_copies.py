"""Copies out of a GPU's memory, taken while it computes."""

from __future__ import annotations

import pytest
import torch

from trainer.training.host_copies import HostCopies


@pytest.mark.gpu
def test_a_gpu_copies_beside_the_training(device: torch.device) -> None:
    copies = HostCopies()
    tree = {"weights": torch.ones(64 << 20, device=device), "step": torch.tensor(3.0)}
    taken = copies.take("tree", tree)
    assert taken["weights"].is_pinned() == (device.type == "cuda")
    assert not taken["step"].is_pinned()
    if device.type == "cuda":
        torch.cuda.synchronize()
    copies.begin()
    copies.before_change()
    tree["weights"].add_(1)
    copies.finish()
    assert taken["weights"].eq(1).all()
    assert taken["step"] == 3
