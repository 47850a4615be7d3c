"""What a closed-loop evaluation found: how many trials got how far, with a confidence interval."""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict

TRIALS = 50
"""By default: the interval is then at most 28 points wide."""


class ClosedLoop(BaseModel):
    """Trials of one checkpoint in the synthetic scene; each stage counts the trials that got there."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    trials: int
    seed: int
    reached: int
    """The gripper was over the object."""
    grasped: int
    lifted: int
    placed: int
    """The object lies on the plate: a success."""

    @property
    def success_rate(self) -> float:
        """The share of trials that succeeded."""
        return self.placed / self.trials

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of the success rate."""
        return wilson(self.placed, self.trials)

    def metrics(self) -> dict[str, float]:
        """The figures by the names that events and the registry have them under."""
        low, high = self.interval
        return {
            "closed_loop_success_rate": self.success_rate,
            "closed_loop_success_low": low,
            "closed_loop_success_high": high,
            **{f"closed_loop_{each}": getattr(self, each) / self.trials for each in ("reached", "grasped", "lifted")},
        }


def wilson(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """The interval of a proportion by Wilson's score (J. Am. Stat. Assoc. 22, 1927); 95 % by default.

    Unlike the normal approximation it stays within 0 and 1, and is no point where all trials failed or succeeded.
    """
    share, square = successes / trials, z * z / trials
    centre = (share + square / 2) / (1 + square)
    half = z * math.sqrt(share * (1 - share) / trials + square / (4 * trials)) / (1 + square)
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == trials else centre + half)
