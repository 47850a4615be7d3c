"""The verdict on a run: did it learn the task, which checkpoint to take, and why (docs/evaluation.md).

Imports nothing heavy: reports are made where there is no trainer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from trainer.config.presets import Goal
from trainer.store.evaluation import Ablation, Evaluation, mean

Level = Literal["learned", "partly", "not"]

FOLLOWS = 0.5
"""An error below this share of both baselines' follows the demonstrations."""
MEMORISED = 3.0
"""A held-out error that many times the training episodes', each as a share of holding still, means memorising."""
IMPROVING = 0.95
"""The last error below this share of the best one before it: still improving."""
WORSE = 1.1
"""The last error above this share of the best one: it got worse since."""
UNUSED = 0.05
"""An input whose loss changes the error by less is not used."""
LITTLE = 0.25
"""By less than this, little."""


class Verdict(BaseModel):
    """What the figures say."""

    model_config = ConfigDict(frozen=True)

    level: Level
    summary: str
    """One sentence."""
    reasons: list[str]
    advice: list[str]
    """What to do next, the most useful first."""
    take: int | None
    """The step of the checkpoint to put on the robot; None where none has learned anything."""


def verdict(evaluations: Mapping[int, Evaluation], goal: Goal = "generalise") -> Verdict | None:
    """Judge the checkpoints of a run by their evaluations, by step. None where there is nothing to judge by.

    ``goal`` is what the run was for: ``overfit-*`` presets are meant to memorise.
    """
    if not evaluations:
        return None
    steps = sorted(evaluations)
    best = best_step(evaluations)
    found = evaluations[best]
    level, summary = _level(found)
    reasons, advice = [], []
    memorised = _memorised(found)
    if level == "learned" and memorised and goal == "generalise":
        level = "partly"
        summary = "It has learned its training episodes, and little that carries over"
    if found.held_out and found.training_mse is not None:
        reasons.append(
            f"On episodes it was not trained on the error is {found.mse:.4g}, on training episodes "
            f"{found.training_mse:.4g}."
        )
        if memorised and goal == "generalise":
            reasons.append("It knows its training episodes by heart.")
            advice.append("Record more episodes and vary them (positions, objects, light), or train for fewer steps.")
    elif goal == "generalise":
        reasons.append("All figures are on training episodes, so that nothing says how it does elsewhere.")
        advice.append("Keep some episodes out: --holdout 0.1.")
    if lagging := [each.name for each in found.joints if each.moves and each.mse >= each.hold_still_mse]:
        moving = [each for each in found.joints if each.moves]
        reasons.append(
            f"{len(lagging)} of {len(moving)} joints that move are no better than holding still: {_listed(lagging)}."
        )
    trend, next_ = _trend({step: evaluations[step] for step in steps}, best, level)
    reasons += trend
    advice = [*next_, *advice]
    for sentence, what_to_do in _inputs(found.ablations):
        reasons.append(sentence)
        # One that has learned nothing uses nothing, and what is to be known by heart needs little.
        if what_to_do and level != "not" and goal == "generalise":
            advice.append(what_to_do)
    if level == "not" and not next_:
        advice.insert(0, "Train for more steps, and compare a higher and a lower --learning-rate.")
    return Verdict(
        level=level,
        summary=f"{summary} (checkpoint {best}, on {found.on}).",
        reasons=[_baselines(found), *reasons],
        advice=list(dict.fromkeys(advice)),
        take=None if level == "not" else best,
    )


def best_step(evaluations: Mapping[int, Evaluation]) -> int:
    """The step with the lowest error, of those evaluated by the full protocol where there are any.

    Intermediate checkpoints are compared on the episodes that all have in common (``on_common``).
    """
    full = {step: each for step, each in evaluations.items() if each.full} or dict(evaluations)
    errors = on_common(full)
    return min(errors, key=lambda step: (errors[step], step))


def on_common(evaluations: Mapping[int, Evaluation]) -> dict[int, float]:
    """Each checkpoint's error on the counting episodes that all have; on its own where they have none in common."""
    shared = set.intersection(*({(e.hash, e.frames) for e in each.counting} for each in evaluations.values()))
    return {
        step: mean(e.mse for e in each.counting if (e.hash, e.frames) in shared) if shared else each.mse
        for step, each in evaluations.items()
    }


def _level(found: Evaluation) -> tuple[Level, str]:
    still, constant = found.over_hold_still, found.over_variance
    if still is None or constant is None:
        return "not", "Nothing moves in the demonstrations, so that there is nothing to learn"
    if constant >= 1:
        return "not", "It has not learned the task: the mean action predicts the demonstrations as well"
    if still >= 1:
        return "not", "It has not learned the task: holding still predicts the demonstrations as well"
    if still < FOLLOWS and constant < FOLLOWS:
        return "learned", "It has learned the task: it follows the demonstrations"
    return "partly", "It has learned the task in part"


def _baselines(found: Evaluation) -> str:
    parts = [
        f"{ratio:.0%} of the error of {name}"
        for ratio, name in (
            (found.over_hold_still, "holding still"),
            (found.over_variance, "always predicting the mean action"),
        )
        if ratio is not None
    ]
    return f"The open-loop error is {' and '.join(parts) or found.mse}."


def _memorised(found: Evaluation) -> bool:
    if not found.held_out or not found.training_mse or not found.training_hold_still_mse or not found.over_hold_still:
        return False
    return found.over_hold_still > MEMORISED * found.training_mse / found.training_hold_still_mse


def _trend(evaluations: Mapping[int, Evaluation], best: int, level: Level) -> tuple[list[str], list[str]]:
    """How the error went over the checkpoints, and what follows."""
    errors = on_common(evaluations)
    if len(errors) < 2:
        return [], []
    *before, last = errors
    lowest = min(before, key=lambda step: errors[step])
    if errors[last] < IMPROVING * errors[lowest]:
        advice = [f"Train longer: raise --max-steps above {last}."] if level != "learned" else []
        return [
            f"It was still improving at the end: {errors[lowest]:.4g} at step {lowest}, {errors[last]:.4g} at {last}."
        ], advice
    if errors[last] > WORSE * errors[lowest]:
        reason = f"It got worse since step {lowest}: {errors[lowest]:.4g} there, {errors[last]:.4g} at {last}."
        return [reason], [f"Take step {best}." if level != "not" else "Lower --learning-rate."]
    return [
        f"The last checkpoints hardly differ: {errors[lowest]:.4g} at step {lowest}, {errors[last]:.4g} at {last}."
    ], []


def _inputs(ablations: Sequence[Ablation]) -> list[tuple[str, str]]:
    """What each input means to the policy, and what to do about it."""
    found: list[tuple[str, str]] = []
    for input_ in dict.fromkeys(each.input for each in ablations):
        # A black picture is something it never saw: a growing error does not tell that it looked before.
        telling = [each for each in ablations if each.input == input_ and each.change != "blank"]
        most = max(telling or [each for each in ablations if each.input == input_], key=lambda each: each.relative)
        found.append(_meaning(input_, most))
    return found


def _meaning(input_: str, most: Ablation) -> tuple[str, str]:
    kind, _, key = input_.partition(".")
    changed = f"{abs(most.relative):.1%}"
    name, doing = {
        "instruction": ("the instruction", "swapping it" if most.change == "swapped" else "leaving it out"),
        "camera": (f"the camera {key}", "showing another episode's" if most.change == "swapped" else "freezing it"),
        "state": ("the state", "freezing it"),
    }[kind]
    if most.relative < UNUSED:
        if kind == "instruction":
            cure = "" if most.change == "none" else "Check that each episode has the instruction of what it shows."
            detail = "Ignores" if most.change == "swapped" else "Does not need"
            return f"{detail} the instruction: {doing} changes the error by {changed}.", cure
        cure = (
            f"Check that {name} shows what the task needs, or leave it out of the data config."
            if kind == "camera"
            else ""
        )
        return f"Does not use {name}: {doing} changes the error by {changed}.", cure
    verb = "Uses" if most.relative >= LITTLE else "Hardly uses"
    return f"{verb} {name}: {doing} raises the error by {changed}.", ""


def _listed(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
