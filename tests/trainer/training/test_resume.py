"""Interrupted and resumed, a training is the one it would have been, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.support.training import Training, assert_same

MakeTraining = Callable[..., Training]


def assert_same_training(ours: Training, theirs: Training, step: int) -> None:
    assert_same(ours.weights(step), theirs.weights(step))
    ours_state, theirs_state = ours.state(step), theirs.state(step)
    for state in (ours_state, theirs_state):
        # The first loss logged after a resume is the mean of the steps since, not of all ten; and times differ.
        del state["trainer_state.json"]["log_history"]
    assert_same(ours_state, theirs_state)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_parts_make_the_whole(training: MakeTraining, workers: int) -> None:
    # Six steps are an epoch: stops in the middle of one, and at the end of one.
    whole = training("whole", max_steps=14, save_steps=2, dataloader_num_workers=workers)
    assert whole.run() == 0
    for stop in (4, 6):
        parts = training(f"parts-{stop}", max_steps=14, save_steps=2, dataloader_num_workers=workers)
        interrupted(parts, stop)
        assert parts.steps[-1] == stop
        assert parts.run(resume=True) == 0
        assert parts.events
        assert_same_training(parts, whole, 14)


class PowerCutError(Exception):
    """Ends the training as if the machine had gone away."""


def interrupted(training: Training, step: int) -> None:
    """Train with the schedule of the whole, and end right after the checkpoint of ``step``."""
    from trainer.training.hf import FinetuneTrainer

    save = FinetuneTrainer._save_checkpoint

    def save_and_end(self: FinetuneTrainer, model: torch.nn.Module, trial: Any) -> None:
        save(self, model, trial)
        if self.state.global_step == step:
            raise PowerCutError

    with pytest.MonkeyPatch.context() as patch, pytest.raises(PowerCutError):
        patch.setattr(FinetuneTrainer, "_save_checkpoint", save_and_end)
        training.run()


def test_the_number_of_workers_changes_nothing(training: MakeTraining) -> None:
    without, with_ = training("without", max_steps=7, save_steps=7), training("with", max_steps=7, save_steps=7)
    assert without.run() == 0
    assert with_.run(dataloader_num_workers=2) == 0
    assert_same_training(with_, without, 7)


def test_the_same_training_twice(training: MakeTraining) -> None:
    one, two = training("one"), training("two")
    assert one.run() == 0
    assert two.run() == 0
    assert_same_training(one, two, 4)
    different = training("different", learning_rate=2e-4)
    assert different.run() == 0
    with pytest.raises(AssertionError):
        assert_same(different.weights(4), one.weights(4))
