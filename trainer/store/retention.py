"""Which checkpoints of a run are kept."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from trainer.errors import UsageError


@dataclass(frozen=True)
class Retention:
    """Keep the ``last`` newest checkpoints of a run, and each whose step is a multiple of ``every``.

    Neither keeps them all. The newest always stays. Raises ``UsageError`` for a number below 1.
    """

    last: int | None = None
    every: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("--keep-last", self.last), ("--keep-every", self.every)):
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}, not a number of 1 or more.", "Leave it out to keep all.")

    def surplus(self, steps: Collection[int]) -> set[int]:
        """Those of ``steps`` that are not kept."""
        if self.last is None and self.every is None:
            return set()
        ordered = sorted(steps)
        kept = set(ordered[-(self.last or 1) :])
        if self.every is not None:
            kept |= {step for step in ordered if step % self.every == 0}
        return set(ordered) - kept
