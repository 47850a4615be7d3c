"""Waiting for what another thread, process or container does. A wait that succeeds early costs nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import pytest

PATIENCE = 300.0
"""Seconds after which a test takes what it waits for as never coming, however busy the machine is."""
_LONGEST_PAUSE = 0.1
_SHARE = 4
"""A pause is this many times as long as its question took, or longer: a wait leaves the processor to what it waits for.
"""

T = TypeVar("T")


def until(
    condition: Callable[[], T | None],
    what: str | Callable[[], object] = "",
    *,
    alive: Callable[[], object] = lambda: True,
    seconds: float = PATIENCE,
) -> T:
    """The first true value of ``condition``, which is asked again and again.

    The test fails when none comes within ``seconds``, or when what should bring it is not ``alive``. ``what`` says what
    was waited for, or shows what there is instead.
    """
    deadline = time.monotonic() + seconds
    pause = 0.005
    while True:
        # In this order: what was done last, before the end, counts.
        going_on = alive()
        asked = time.monotonic()
        if value := condition():
            return value
        if not going_on:
            pytest.fail(f"It ended before this wait did: {what() if callable(what) else what}")
        if time.monotonic() > deadline:
            pytest.fail(f"Waited {seconds:.0f} s in vain: {what() if callable(what) else what}")
        time.sleep(max(pause, min(_SHARE * (time.monotonic() - asked), 1.0)))
        pause = min(2 * pause, _LONGEST_PAUSE)
