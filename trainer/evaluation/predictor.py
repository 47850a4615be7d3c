"""A policy asked many questions at once, with noise that is known from the episode and the frame."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trainer.evaluation.open_loop import BATCH, Step

if TYPE_CHECKING:
    from trainer.evaluation.open_loop import ObservationSource
    from trainer.gr00t.policy import Policy


class Predictor:
    """``policy`` with the draws of ``seed``; see ``trainer.evaluation.open_loop.ActionPredictor``."""

    def __init__(self, policy: Policy, seed: int = 0) -> None:
        self.policy = policy
        self.seed = seed

    def predict(
        self, steps: Sequence[Step], frames: Sequence[tuple[int, int]]
    ) -> list[dict[str, NDArray[np.floating]]]:
        """Predicted ``action.*`` (H,D) in raw units for each observation."""
        noise = np.stack(
            [self._generator("action", *frame).standard_normal(self.policy.noise_shape) for frame in frames]
        )
        if not self.policy.data_config.state:  # a batch is identified by its states
            return [self.policy.get_action(step, each) for step, each in zip(steps, noise, strict=True)]
        batch: dict[str, Any] = {}
        for name in steps[0]:
            values = [step[name] for step in steps]
            # A text per sample; a list of one text is what a single observation has.
            batch[name] = [value[0] for value in values] if isinstance(values[0], list) else np.stack(values)
        actions = self.policy.get_action(batch, noise)
        return [{name: value[row] for name, value in actions.items()} for row in range(len(steps))]

    def loss(self, source: ObservationSource, episode: int, frames: Sequence[int]) -> float:
        """The mean flow-matching loss at these frames of an episode; the noise and the times are always the same."""
        losses: list[float] = []
        for start in range(0, len(frames), BATCH):
            chosen = frames[start : start + BATCH]
            generators = [self._generator("loss", episode, frame) for frame in chosen]
            noise = np.stack([each.standard_normal(self.policy.noise_shape) for each in generators])
            time = np.array([self.policy.draw_time(each) for each in generators])
            steps = [source.get_step_data(episode, frame) for frame in chosen]
            losses += self.policy.flow_matching_losses(steps, noise, time)
        return float(np.mean(losses))

    def _generator(self, purpose: str, episode: int, frame: int) -> np.random.Generator:
        digest = hashlib.sha256(repr((purpose, self.seed, episode, frame)).encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:16], "big"))
