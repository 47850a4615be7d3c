"""What ``--holdout`` may say. Imports nothing: the configuration is read in light processes."""

from __future__ import annotations

NO_HOLDOUT = "0"

Rule = float | int | tuple[int, ...]


def parse_holdout(text: str) -> Rule:
    """What ``--holdout`` says: a share (``0.1``), a count (``5``) or a list of episodes (``3,17``; one alone: ``3,``).

    Raises ``ValueError`` that says what is right.
    """
    try:
        if "," in text:
            return tuple(sorted({_whole(part) for part in text.split(",") if part.strip()}))
        if text.strip().isdecimal():
            return int(text)
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 < share < 1:
        raise ValueError(
            f"{text!r} is neither a share such as 0.1, nor a number of episodes such as 5, nor a list such as 3,17"
        )
    return share


def _whole(text: str) -> int:
    if not text.strip().isdecimal():
        raise ValueError(text)
    return int(text)
