"""Held-out episodes: whole episodes that are never trained on and count in no statistic.

Each is chosen by a hash of its states and actions, so that the choice does not depend on the order of the episodes,
on their numbers, or on what else is in the dataset: data that is added later moves no episode across.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from trainer.data.episodes import EpisodeTable
from trainer.data.holdout_rule import parse_holdout
from trainer.errors import UsageError

HASH_DIGITS = 12


def episode_hash(table: EpisodeTable) -> str:
    """Twelve hexadecimal digits that stand for an episode's states and actions, wherever it is stored."""
    hasher = hashlib.sha256()
    for name in sorted(table.columns):
        if name == "episode_index":
            continue
        values = np.ascontiguousarray(table.columns[name], dtype=np.float64)
        hasher.update(f"{name} {values.shape}\n".encode())
        hasher.update(values.tobytes())
    return hasher.hexdigest()[:HASH_DIGITS]


def choose(hashes: Mapping[int, str], holdout: str, dataset: str = "The dataset") -> list[int]:
    """The episodes that ``holdout`` leaves out of training, of those with these ``hashes``; in the dataset's order.

    A share takes every episode whose hash lies below it, at least one; a count takes the lowest hashes, so that an
    added episode can take the place of another. Episodes with the same content are held out together. Raises
    ``UsageError`` when an episode does not exist, or none is left to train on.
    """
    rule = parse_holdout(holdout)
    ordered = sorted(set(hashes.values()))
    if isinstance(rule, tuple):
        if unknown := [episode for episode in rule if episode not in hashes]:
            raise UsageError(
                f"--holdout {holdout}: {dataset} has no episode {', '.join(map(str, unknown))}.",
                f"Its episodes are {min(hashes)} to {max(hashes)}.",
            )
        chosen = {hashes[episode] for episode in rule}
    elif isinstance(rule, int):
        chosen = set(ordered[:rule])
    else:
        chosen = {each for each in ordered if int(each, 16) < rule * 16**HASH_DIGITS} or set(ordered[:1])
    episodes = [episode for episode, each in hashes.items() if each in chosen]
    if len(episodes) == len(hashes):
        raise UsageError(
            f"--holdout {holdout}: {dataset} has {len(hashes)} episodes, and none would be left to train on.",
            "Hold out fewer.",
        )
    return episodes
