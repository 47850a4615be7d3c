"""Evaluations as the registry keeps them, from a few numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer.config.run_spec import SnapshotRef
from trainer.store.evaluation import EpisodeFigures, Evaluation


def evaluation(
    errors: Mapping[str, float],
    trained_on: set[str] | None = None,
    *,
    still: float = 1.0,
    variance: float = 1.0,
    dataset: str = "own",
    **changes: Any,
) -> Evaluation:
    """One with these errors by episode hash; ``trained_on`` names the episodes that were trained on, None for all."""
    episodes = [
        EpisodeFigures(
            hash=name,
            episode=number,
            frames=60,
            trained_on=trained_on is None or name in trained_on,
            mse=mse,
            hold_still_mse=still,
        )
        for number, (name, mse) in enumerate(errors.items())
    ]
    given: dict[str, Any] = {
        "dataset": SnapshotRef(kind="dataset", name=dataset, digest="d" * 64),
        "data_config": "config",
        "full": True,
        "action_horizon": 16,
        "denoising_steps": 4,
        "episodes": episodes,
        "mse": 0.0,
        "hold_still_mse": still,
        "action_variance": variance,
        **changes,
    }
    found = Evaluation(**given)
    counting = [each.mse for each in found.counting]
    return found.model_copy(update={"mse": changes.get("mse", sum(counting) / len(counting))})
