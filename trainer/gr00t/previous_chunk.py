"""The chunk that a robot executes while it asks for the next one (real-time chunking). No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from trainer.errors import UsageError

RAMP_RATE = 6.0
"""Upstream's clients give none; its own tests of the chunking use this."""


@dataclass(frozen=True)
class PreviousChunk:
    """What the next chunk is to continue."""

    actions: Mapping[str, np.ndarray]
    """``action.<key>`` as ``Policy.get_action`` gave them, [H, D] or [B, H, D]."""
    executed_steps: int
    """How many of them had been executed when the new observation was made: the new chunk begins with the next one."""
    frozen_steps: int = 0
    """How many more will be executed before the new chunk arrives: its first ones, which stay exactly the same."""
    ramp_rate: float = RAMP_RATE
    """How fast the steps after those become free to change."""

    def remaining(self, widths: Mapping[str, int], horizon: int, batch: int | None) -> dict[str, np.ndarray]:
        """What is left of it, ``action.<key>`` float64 [B, horizon - executed, D].

        ``widths`` are those of the policy's actions, ``batch`` the observation's, None without a batch axis. Raises
        ``UsageError`` where it is no chunk of that policy, or its numbers contradict each other.
        """
        if not 0 <= self.executed_steps < horizon:
            raise UsageError(
                f"{self.executed_steps} steps of the previous chunk were executed; it has {horizon}.",
                "Continue a chunk before its end; after it there is nothing to continue.",
            )
        left = horizon - self.executed_steps
        if not 0 <= self.frozen_steps <= left:
            raise UsageError(
                f"{self.frozen_steps} steps are frozen; {left} are left of the previous chunk.",
                "Freeze those that the robot executes until the next chunk arrives.",
            )
        if not 0.01 <= self.ramp_rate <= 1000:
            raise UsageError(f"The ramp rate is {self.ramp_rate}.", f"It is 0.01 to 1000, as a rule {RAMP_RATE:g}.")
        found = {}
        for name, width in widths.items():
            shape = (horizon, width) if batch is None else (batch, horizon, width)
            if name not in self.actions:
                raise UsageError(
                    f"The previous chunk has no {name}; it has {', '.join(self.actions) or 'nothing'}.",
                    "Give all of its actions, as they were answered.",
                )
            values = np.asarray(self.actions[name])
            if values.shape != shape:
                raise UsageError(
                    f"{name} of the previous chunk is {list(values.shape)}.", f"It must be {list(shape)}, as answered."
                )
            if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
                raise UsageError(
                    f"{name} of the previous chunk has a value that is no finite number.", "Send it as answered."
                )
            found[name] = values.astype(np.float64).reshape(-1, horizon, width)[:, self.executed_steps :]
        return found

    def whole(self, remaining: Mapping[str, np.ndarray], row: int) -> dict[str, np.ndarray]:
        """One sample's ``remaining`` steps as a chunk of the horizon, its last step repeated: each step of a chunk may
        be normalised in another way.
        """
        return {
            name: np.concatenate([values[row], np.repeat(values[row, -1:], self.executed_steps, axis=0)])
            for name, values in remaining.items()
        }
