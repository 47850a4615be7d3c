"""Trainings on a GPU: their checkpoints, their resumes, and a host that never waits."""

from __future__ import annotations

import copy
import filecmp
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import TrainerCallback

from bench.drill.waits import Waits
from tests.gpu.conftest import Within
from tests.support.n17 import n17_training
from tests.support.training import Training, assert_same, interrupted
from trainer.gr00t.n17.tiny import make_tiny_base_model
from trainer.gr00t.weights import save_checkpoint
from trainer.training import finetuning
from trainer.training.finetune_trainer import FinetuneTrainer

pytestmark = pytest.mark.gpu
MakeTraining = Callable[..., Training]


def plain(tree: Any) -> Any:
    """``tree`` with a copy of each tensor in host memory, taken while everything stands still."""
    if isinstance(tree, torch.Tensor):
        return tree.detach().cpu().clone()
    if isinstance(tree, dict):
        return {key: plain(value) for key, value in tree.items()}
    return [plain(value) for value in tree] if isinstance(tree, list) else copy.copy(tree)


def test_a_checkpoint_is_a_plain_copy(training: MakeTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte for byte, though the training continues while it is copied and written."""
    save, states = FinetuneTrainer._save_checkpoint, {}

    def note(self: FinetuneTrainer, *args: Any) -> None:
        step = self.state.global_step
        save_checkpoint(self._groot, tmp_path / f"plain-{step}")
        assert self.optimizer is not None
        states[step] = plain(self.optimizer.state_dict())
        save(self, *args)

    monkeypatch.setattr(FinetuneTrainer, "_save_checkpoint", note)
    saved = training("saved", max_steps=6, save_steps=2)
    assert saved.run() == 0
    for step in (2, 4, 6):
        written = tmp_path / f"plain-{step}"
        names = [file.name for file in written.glob("*.safetensors*")]
        assert filecmp.cmpfiles(saved.checkpoint(step), written, names, shallow=False)[0] == names
        assert_same(saved.state(step)["optimizer.pt"], states[step])


def test_parts_make_the_whole(training: MakeTraining, device: torch.device, within: Within) -> None:
    """N + resume + N steps are 2N, with kernels that add in one order; the largest difference of a weight."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            whole, parts = training("whole", max_steps=8, save_steps=4), training("parts", max_steps=8, save_steps=4)
            assert whole.run() == 0
            interrupted(parts, 4)
            assert parts.run(resume=True) == 0
    finally:
        torch.use_deterministic_algorithms(False)
    ours, theirs = parts.weights(8), whole.weights(8)
    assert ours.keys() == theirs.keys()
    # One step moves a weight by up to the learning rate, 1e-4: a lost moment or draw would show.
    allowed = 0.0 if device.type == "cpu" else 1e-6
    within(max((ours[name] - theirs[name]).abs().max().item() for name in ours), allowed)


def n17(training: MakeTraining, name: str, **flags: int) -> Training:
    """As ``training``, of N1.7 and on its dataset."""
    like = training(name)
    base_model = make_tiny_base_model(like.output_dir.with_name(f"{name}-base-model"))
    return n17_training(like.output_dir, like.flags["dataset_path"][0], base_model, **flags)


@pytest.mark.parametrize("generation", ["N1.5", "N1.7"])
def test_the_host_does_not_wait_for_the_gpu(
    training: MakeTraining, generation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From one step to the next, where nothing is logged or saved."""
    waits = Waits()

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 4:
                waits.__enter__()
            elif state.global_step == 8:
                waits.__exit__(None, None, None)

    monkeypatch.setattr(finetuning, "reporting", lambda *_: [Watch()])
    flags = {"max_steps": 9, "save_steps": 9}
    watched = training("watched", **flags) if generation == "N1.5" else n17(training, "watched", **flags)
    assert watched.run() == 0
    assert waits.places == {}
