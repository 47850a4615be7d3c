"""Processes that a test started: whether they are gone."""

from __future__ import annotations

import psutil


def alive(process: psutil.Process) -> bool:
    """Whether ``process`` still runs. A zombie has ended: an orphan waits for an init that may never reap it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
