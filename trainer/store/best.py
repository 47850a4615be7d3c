"""``<preset>/best``: never worse than what it replaces, measured on the same episodes, and never one that has learned
nothing.

The alias keeps, beside the checkpoint it points at, what it rests on, and the best of each dataset and data config of
the preset: errors on different data can't be compared, so each of them has a best, and the alias is the one that was
decided last.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from trainer.store.evaluation import Evaluation, common_errors, mean
from trainer.store.registry_entry import BEST_METRIC, CheckpointEntry


class Best(BaseModel):
    """What the alias holds beside its target."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    rests_on: str = ""
    """On what the last decision was made, for people."""
    of: dict[str, str] = {}
    """``<dataset>|<data config>`` to its best checkpoint."""


class Comparison(NamedTuple):
    """Two checkpoints on the same episodes."""

    ours: float
    theirs: float
    rests_on: str


def track(entry: CheckpointEntry) -> str:
    """What an entry competes in: its dataset's name and its data config."""
    names = ",".join(ref.name for ref in entry.spec.datasets)
    config = entry.spec.config.data_config
    # Two of one name may differ: what a user's file says is part of it.
    differs = "" if isinstance(config, str) else f"@{hashlib.sha256(repr(config).encode()).hexdigest()[:12]}"
    return f"{names}|{config}{differs}"


def may_be_best(entry: CheckpointEntry) -> bool:
    """Whether it has learned anything: it was evaluated by the full protocol, and is better than holding still."""
    found = entry.evaluation
    if found is None:  # by Isaac-GR00T's script, or an earlier pippa
        return math.isfinite(entry.metrics.get(BEST_METRIC, math.nan)) and not _worse_than_baselines(entry)
    return found.full and math.isfinite(found.mse) and found.mse < found.hold_still_mse


def _worse_than_baselines(entry: CheckpointEntry) -> bool:
    return any(entry.metrics.get(f"{BEST_METRIC}_over_{baseline}", 0.0) >= 1 for baseline in ("variance", "hold_still"))


def compare(ours: CheckpointEntry, theirs: CheckpointEntry) -> Comparison | None:
    """Both errors on the same episodes; None where they have none in common."""
    if ours.evaluation and theirs.evaluation:
        return compare_evaluations(ours.evaluation, theirs.evaluation)
    held_out = any(entry.evaluation and entry.evaluation.held_out for entry in (ours, theirs))
    if held_out or ours.spec.datasets != theirs.spec.datasets:
        return None
    our, their = (entry.metrics.get(BEST_METRIC, math.inf) for entry in (ours, theirs))
    return Comparison(our, their, "the episodes that their runs evaluated")


def compare_evaluations(ours: Evaluation, theirs: Evaluation) -> Comparison | None:
    """The same for two evaluations."""
    found = common_errors(ours, theirs)
    if found is None:
        return None
    pairs, unseen = found
    kind = "that neither was trained on" if unseen else "that both were trained on"
    return Comparison(
        mean(our.mse for our, _ in pairs),
        mean(their.mse for _, their in pairs),
        f"{len(pairs)} episode{'' if len(pairs) == 1 else 's'} {kind}",
    )


def replaces(ours: CheckpointEntry, theirs: CheckpointEntry | None) -> str | None:
    """Why ``ours`` is the best instead of ``theirs``: what that rests on. None where it is not."""
    alone = f"its own evaluation on {ours.evaluation.on}" if ours.evaluation else "its run's own evaluation"
    if not may_be_best(ours):
        return None
    if theirs is None or theirs.name == ours.name:
        return alone
    found = compare(ours, theirs)
    if found is None:
        return None if _has_learned_elsewhere(theirs) else alone
    if found.ours < found.theirs or not may_be_best(theirs):
        return f"{found.rests_on}: {found.ours:.4g} instead of {found.theirs:.4g} of {theirs.name}"
    return None


def best_of(entries: Iterable[CheckpointEntry]) -> CheckpointEntry | None:
    """What ``<preset>/best`` should name of all its ``entries``, decided one after the other; None for none."""
    tracks: dict[str, CheckpointEntry] = {}
    last = None
    for entry in sorted(entries, key=lambda entry: (entry.created, entry.step)):
        if replaces(entry, tracks.get(track(entry))) is not None:
            tracks[track(entry)] = last = entry
    return last


def best_of_each_run(entries: Iterable[CheckpointEntry]) -> set[str]:
    """Of each run the checkpoint with the lowest error, of those evaluated by the full protocol where there are any; of
    runs that were not evaluated none.
    """
    by_run: dict[str, list[tuple[bool, float, int, str]]] = {}
    for entry in entries:
        error = entry.metrics.get(BEST_METRIC, math.nan)
        if math.isfinite(error):
            full = entry.evaluation is not None and entry.evaluation.full
            by_run.setdefault(entry.run_id, []).append((not full, error, -entry.step, entry.name))
    return {min(own)[3] for own in by_run.values()}


def _has_learned_elsewhere(entry: CheckpointEntry) -> bool:
    """Whether a checkpoint that can't be compared still deserves its place: it was measured as today."""
    return entry.evaluation is not None and may_be_best(entry)
