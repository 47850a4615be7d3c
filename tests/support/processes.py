"""Processes that a test started: to kill them all, and whether they are gone."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import psutil


def alive(process: psutil.Process) -> bool:
    """Whether ``process`` still runs. A zombie has ended: an orphan waits for an init that may never reap it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill_at_once(processes: Iterable[psutil.Process]) -> None:
    """SIGKILL to all, as a power cut would: none gets to see that another is gone, so all stand still first."""
    processes = list(processes)
    for each in processes:
        with suppress(psutil.NoSuchProcess):
            each.suspend()
    # Children before parents: the kernel wakes up a stopped process group that lost its parent.
    for each in sorted(processes, key=lambda each: each.pid, reverse=True):
        with suppress(psutil.NoSuchProcess):
            each.kill()
