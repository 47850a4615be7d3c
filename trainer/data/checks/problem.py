"""What the checks report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from trainer.errors import PippaError


class Problem(NamedTuple):
    """Something training would fail on, or silently learn nonsense from."""

    message: str
    """What is wrong, and in which file."""
    fix: str
    """What to do about it."""

    @classmethod
    def of(cls, error: PippaError) -> Problem:
        """The problem an error tells of."""
        return cls(error.message.rstrip("."), error.hint)


def format_problems(problems: Sequence[Problem]) -> str:
    """Problems as text for a terminal or an error message, a numbered paragraph each."""
    return "\n".join(f"{number}. {message}\n   {fix}" for number, (message, fix) in enumerate(problems, start=1))


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
