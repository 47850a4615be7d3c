"""Runs a command, such as one that stops the machine, when a worker has had nothing to do for a while."""

from __future__ import annotations

import shlex
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from flows.launch import process_table
from trainer.disk import locked

_LOOK_SECONDS = 5.0


class Idle:
    """A thread that watches, as a context manager.

    ``command`` runs once ``busy`` has been false for ``seconds`` without a break, and again after as long where the
    machine still runs then. ``say`` hears of it.
    """

    def __init__(
        self,
        seconds: float,
        command: str,
        busy: Callable[[], bool],
        say: Callable[[str], None],
        look_seconds: float = _LOOK_SECONDS,
    ) -> None:
        self._seconds = seconds
        self._command = command
        self._busy = busy
        self._say = say
        self._look_seconds = look_seconds
        self._over = threading.Event()

    def __enter__(self) -> Idle:
        threading.Thread(target=self._watch, name="idle", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _watch(self) -> None:
        since = time.monotonic()
        while not self._over.wait(self._look_seconds):
            if self._busy():
                since = time.monotonic()
            elif time.monotonic() - since >= self._seconds:
                self._say(f"Nothing to do for {self._seconds / 60:g} minutes: {self._command}")
                try:
                    code = subprocess.run(shlex.split(self._command), check=False).returncode
                    problem = f"it ended with exit code {code}" if code else ""
                except OSError as error:
                    problem = error.strerror or str(error)
                if problem:
                    self._say(f"{self._command}: {problem}")
                since = time.monotonic()


def trains_here(home: Path) -> bool:
    """Whether this worker runs a flow, or any training holds its lock in ``home``."""
    return bool(process_table.children()) or any(map(_held, home.glob("runs/*/lock")))


def _held(lock: Path) -> bool:
    try:
        with locked(lock, wait=False):
            return False
    except BlockingIOError:
        return True
    except OSError:  # another user's
        return False
