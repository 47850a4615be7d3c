"""Interrupted and resumed, a training is the one it would have been, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.training import Training, assert_same, assert_same_training, interrupted
from trainer.events import PhaseEvent

MakeTraining = Callable[..., Training]


@pytest.mark.slow
def test_parts_make_the_whole(training: MakeTraining) -> None:
    """Whether processes load the data or not: neither changes a bit."""
    # Six steps are an epoch: stops in the middle of one, and at the end of one.
    whole = training("whole", max_steps=14, save_steps=2)
    assert whole.run_alone() == 0
    # In a separate process, where nothing but the training draws from Python's random generator.
    parts = training("parts", max_steps=14, save_steps=2)
    assert parts.run_alone(power_cut=4) != 0
    assert "PowerCutError" in parts.log.read_text()
    assert parts.steps[-1] == 4
    assert parts.run_alone(resume=True) == 0
    assert_same_training(parts, whole, 14)
    for workers, stop in ((0, 6), (2, 4), (2, 6)):
        parts = training(f"parts-{stop}-{workers}", max_steps=14, save_steps=2, dataloader_num_workers=workers)
        interrupted(parts, stop)
        assert parts.steps[-1] == stop
        assert parts.run(resume=True) == 0
        assert parts.events
        assert_same_training(parts, whole, 14)


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


def test_a_mixture_resumes(training: MakeTraining, dataset: Path, other_dataset: Path) -> None:
    # Fifteen frames make a mixture of fifteen draws: an epoch of eight batches, each epoch with its own draws.
    flags = {"dataset_path": [dataset, other_dataset], "max_steps": 10, "save_steps": 2}
    whole = training("whole", **flags)
    assert whole.run() == 0
    (phase,) = [event for event in whole.events if isinstance(event, PhaseEvent) and event.phase == "train"]
    assert "on 15 frames, " in phase.message
    parts = training("parts", **flags)
    interrupted(parts, 8)
    assert parts.run(resume=True) == 0
    assert_same_training(parts, whole, 10)
    alone = training("alone", max_steps=10, save_steps=10)
    assert alone.run() == 0
    with pytest.raises(AssertionError):
        assert_same(alone.weights(10), whole.weights(10))
