"""What to do after a training that failed."""

from __future__ import annotations

from trainer.errors import ExitCode

_KEEPS_FAILING = (ExitCode.USAGE, ExitCode.DATASET, ExitCode.OUT_OF_MEMORY)
"""Ends that a run meets again however often it is resumed: a resumed run keeps its configuration and its data."""


def can_be_resumed(exit_code: int | None) -> bool:
    """Whether resuming a run that ended with ``exit_code`` may end otherwise."""
    return exit_code not in _KEEPS_FAILING


def after_failure(run_id: str, exit_code: int | None) -> str:
    """The next step after ``run_id`` ended with ``exit_code``."""
    if not can_be_resumed(exit_code):
        return "start a new run with what the message above advises: a resumed run keeps its flags and its data"
    return f"once fixed: pippa runs resume {run_id}"
