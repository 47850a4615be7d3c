"""What the checks report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from trainer.errors import DatasetError, PippaError


class Problem(NamedTuple):
    """Something training would fail on, or silently learn nonsense from."""

    message: str
    """What is wrong, and in which file."""
    fix: str
    """What to do about it."""

    def __str__(self) -> str:
        """As a warning."""
        return f"! {self.message}\n  {self.fix}"

    @classmethod
    def of(cls, error: PippaError) -> Problem:
        """The problem an error tells of."""
        return cls(error.message.rstrip("."), error.hint)

    def error(self) -> DatasetError:
        """The error that tells of it."""
        return DatasetError(f"{self.message}.", self.fix)


def format_problems(problems: Sequence[Problem]) -> str:
    """Problems as text for a terminal or an error message, numbered; neighbours with one fix share its line."""
    lines = []
    for number, (message, fix) in enumerate(problems, start=1):
        lines.append(f"{number}. {message}")
        if number == len(problems) or problems[number].fix != fix:
            lines.append(f"   {fix}")
    return "\n".join(lines)


def shorten(problems: Iterable[Problem], keep: int = 5) -> list[Problem]:
    """Problems of many episodes: for each fix the first ``keep``, and how many more there are."""
    groups: dict[str, list[Problem]] = {}
    for problem in dict.fromkeys(problems):
        groups.setdefault(problem.fix, []).append(problem)
    shown = []
    for fix, group in groups.items():
        shown += group[:keep]
        if len(group) > keep:
            shown.append(Problem(f"… and {len(group) - keep} more like this: {group[keep].message}", fix))
    return shown
