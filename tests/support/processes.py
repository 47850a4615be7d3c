"""Processes that a test started: finding them, and whether they are gone."""

from __future__ import annotations

import contextlib

import psutil

from tests.support.waiting import until


def alive(process: psutil.Process) -> bool:
    """Whether ``process`` still runs. A zombie has ended: an orphan waits for an init that may never reap it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def child_with(argument: str) -> psutil.Process:
    """This process's only child with ``argument``. One that was just started may have no command line for a moment."""

    def found() -> list[psutil.Process]:
        with_it = []
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                with_it += [child] if argument in child.cmdline() else []
        return with_it

    (only,) = until(found)
    return only
