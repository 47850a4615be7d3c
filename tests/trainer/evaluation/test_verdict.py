"""The verdict: what the figures say, at the thresholds that docs/evaluation.md gives."""

from __future__ import annotations

from typing import Literal

import pytest

from tests.support.evaluations import evaluation
from trainer.evaluation.verdict import Verdict, verdict
from trainer.store.evaluation import Ablation, Evaluation, JointFigures


def judged(*evaluations: Evaluation, goal: Literal["generalise", "memorise"] = "memorise") -> Verdict:
    found = verdict({100 * (number + 1): each for number, each in enumerate(evaluations)}, goal)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("mse", "still", "variance", "level"),
    [
        (0.4, 1.0, 1.0, "learned"),
        (0.5, 1.0, 9.0, "partly"),
        (0.99, 1.0, 9.0, "partly"),
        (1.0, 1.0, 9.0, "not"),
        (0.4, 1.0, 0.4, "not"),  # the mean action predicts as well
        (0.4, 0.2, 9.0, "not"),  # most of the variance explained, and holding still is better
        (0.4, 0.0, 0.0, "not"),
    ],
)
def test_the_level_follows_from_both_baselines(mse, still, variance, level):
    found = judged(evaluation({"a": mse}, still=still, variance=variance))
    assert found.level == level
    assert (found.take is None) == (level == "not")


def test_it_says_on_what_it_rests_and_asks_for_held_out_episodes():
    on_training = judged(evaluation({"a": 0.1, "b": 0.1}), goal="generalise")
    assert on_training.summary.endswith("(checkpoint 100, on 2 training episodes).")
    assert any("--holdout" in advice for advice in on_training.advice)
    assert not any("--holdout" in advice for advice in judged(evaluation({"a": 0.1})).advice)  # overfitting is the goal
    held_out = evaluation({"a": 0.3, "b": 0.2}, {"b"}, training_mse=0.2, training_hold_still_mse=1.0)
    found = judged(held_out, goal="generalise")
    assert found.level == "learned" and "on 1 held-out episode" in found.summary
    assert "0.3, on training episodes 0.2" in found.reasons[1]


def test_memorising_is_a_warning_except_where_it_is_the_goal():
    by_heart = evaluation({"a": 0.4, "b": 0.01}, {"b"}, training_mse=0.01, training_hold_still_mse=1.0)
    found = judged(by_heart, goal="generalise")
    assert found.level == "partly" and "It knows its training episodes by heart." in found.reasons
    assert judged(by_heart, goal="memorise").level == "learned"


def test_the_trend_over_checkpoints():
    improving = judged(*(evaluation({"a": mse}) for mse in (0.9, 0.8, 0.7)))
    assert improving.take == 300 and "Train longer: raise --max-steps above 300." in improving.advice
    worse = judged(*(evaluation({"a": mse}) for mse in (0.9, 0.3, 0.6)))
    assert worse.take == 200 and any("got worse since step 200" in reason for reason in worse.reasons)
    assert "Take step 200." in worse.advice
    level = judged(*(evaluation({"a": mse}) for mse in (0.9, 0.31, 0.3)))
    assert level.take == 300 and any("hardly differ" in reason for reason in level.reasons)
    assert not any("longer" in advice for advice in level.advice)


def test_intermediate_checkpoints_are_compared_on_the_episodes_that_all_have():
    subset = [evaluation({"a": mse}, full=False) for mse in (0.5, 0.3)]
    full = evaluation({"a": 0.2, "b": 0.8})
    found = judged(*subset, full)
    assert found.take == 300 and any("0.3 at step 200, 0.2 at 300" in reason for reason in found.reasons)


def test_joints_that_are_no_better_than_holding_still_are_named():
    joints = [
        JointFigures(name="shoulder", mse=0.1, hold_still_mse=1.0, variance=1.0),
        JointFigures(name="gripper", mse=2.0, hold_still_mse=1.0, variance=1.0),
        JointFigures(name="fixed", mse=0.1, hold_still_mse=0.0, variance=0.0),
    ]
    (reason,) = [each for each in judged(evaluation({"a": 0.3}, joints=joints)).reasons if "joints" in each]
    assert reason == "1 of 2 joints that move are no better than holding still: gripper."


@pytest.mark.parametrize(
    ("input_", "change", "relative", "sentence"),
    [
        ("instruction", "swapped", 0.004, "Ignores the instruction: swapping it changes the error by 0.4%."),
        ("instruction", "none", -0.01, "Does not need the instruction: leaving it out changes the error by 1.0%."),
        ("instruction", "swapped", 2.0, "Uses the instruction: swapping it raises the error by 200.0%."),
        ("camera.wrist", "swapped", 0.01, "Does not use the camera wrist: showing another episode's changes the error"),
        ("camera.wrist", "frozen", 0.2, "Hardly uses the camera wrist: freezing it raises the error by 20.0%."),
        ("state", "frozen", 0.6, "Uses the state: freezing it raises the error by 60.0%."),
    ],
)
def test_ablations_are_put_into_words(input_, change, relative, sentence):
    blank = Ablation(input=input_, change="blank", mse=9.0, relative=9.0)  # something it never saw decides nothing
    ablations = [Ablation(input=input_, change=change, mse=0.3, relative=relative), blank]
    found = judged(evaluation({"a": 0.3}, ablations=ablations))
    assert any(reason.startswith(sentence) for reason in found.reasons)


def test_nothing_to_judge_by_is_no_verdict():
    assert verdict({}) is None
