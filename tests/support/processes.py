"""Processes that a test started: finding them, and whether they are gone."""

from __future__ import annotations

import contextlib
import time

import psutil


def alive(process: psutil.Process) -> bool:
    """Whether ``process`` still runs. A zombie has ended: an orphan waits for an init that may never reap it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def child_with(argument: str, seconds: float = 30) -> psutil.Process:
    """This process's only child with ``argument``. One that was just started may have no command line for a moment."""
    deadline = time.monotonic() + seconds
    while True:
        found = []
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                found += [child] if argument in child.cmdline() else []
        if found or time.monotonic() > deadline:
            (only,) = found
            return only
        time.sleep(0.02)
