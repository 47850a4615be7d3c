"""Does it look, does it listen: trained policies of which one must and the other can't have learned to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.told import make_told
from tests.support.training import small_training
from trainer.evaluation.folder import EvaluateOptions, evaluate
from trainer.evaluation.verdict import LITTLE, UNUSED, verdict
from trainer.events import EvaluationEvent, Event
from trainer.gr00t.n15.tiny import make_tiny_base_model
from trainer.store.evaluation import Evaluation

STEPS = 120


class Noting:
    """Keeps the evaluation that is emitted."""

    def __init__(self) -> None:
        self.found: list[Evaluation] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, EvaluationEvent):
            self.found.append(Evaluation.model_validate(event.evaluation))


def ablated(folder: Path, *, shuffled: bool) -> Evaluation:
    """Train the tiny model on the dataset, and evaluate it with its inputs taken away."""
    dataset = make_told(folder / "told", shuffled=shuffled)
    tiny = make_tiny_base_model(folder / "tiny")
    training = small_training(
        folder / "out",
        dataset,
        tiny,
        batch_size=16,
        max_steps=STEPS,
        save_steps=STEPS,
        learning_rate=2e-3,
        warmup_ratio=0.02,
    )
    assert training.run() == 0
    emit = Noting()
    evaluate(
        EvaluateOptions(
            model_path=training.checkpoint(STEPS), dataset_path=dataset, trajs=16, steps=STEPS, ablations=True
        ),
        emit,  # type: ignore[arg-type]
    )
    return emit.found[0]


def effects(found: Evaluation) -> dict[str, float]:
    return {f"{each.input} {each.change}": each.relative for each in found.ablations}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPPA_HOME", str(tmp_path / "home"))
    torch.set_num_threads(1)


@pytest.mark.slow
def test_a_policy_that_was_told_and_shown_uses_both(tmp_path: Path) -> None:
    found = ablated(tmp_path, shuffled=False)
    assert effects(found)["instruction swapped"] > LITTLE and effects(found)["camera.ego_view swapped"] > LITTLE
    judged = verdict({STEPS: found}, "memorise")
    assert judged is not None and judged.level != "not"
    assert any(reason.startswith("Uses the instruction: swapping it raises") for reason in judged.reasons)
    assert any(reason.startswith("Uses the camera ego_view") for reason in judged.reasons)


@pytest.mark.slow
def test_a_policy_that_was_told_and_shown_nothing_of_use_uses_neither(tmp_path: Path) -> None:
    found = ablated(tmp_path, shuffled=True)
    assert effects(found)["instruction swapped"] < UNUSED and effects(found)["camera.ego_view swapped"] < UNUSED
    judged = verdict({STEPS: found}, "memorise")
    assert judged is not None and judged.level == "not"
    assert any(reason.startswith("Ignores the instruction") for reason in judged.reasons)
    assert any(reason.startswith("Does not use the camera ego_view") for reason in judged.reasons)
