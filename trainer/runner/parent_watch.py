"""A process that ends when the one that started it is gone, so that nothing keeps a GPU busy behind a killed run."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Mapping

PARENT_PID = "PIPPA_PARENT_PID"


def child_environment() -> dict[str, str]:
    """The variable with which a child that calls ``die_with_parent`` follows this process."""
    return {PARENT_PID: str(os.getpid())}


def die_with_parent(environ: Mapping[str, str] = os.environ, interval: float = 0.5) -> None:
    """Send this process SIGTERM once the one named by ``PIPPA_PARENT_PID`` is gone; does nothing where it is not set.

    It is opt-in because a person may start a training and log out (``nohup trainer run … &``). Polling works on every
    platform, and, unlike Linux's parent death signal, it doesn't fire when merely the thread that forked ends.
    """
    parent = environ.get(PARENT_PID, "")
    if not parent.isdigit():
        return
    # A wrapper such as `uv run` may stand between the two; then the parent isn't ours to wait for by getppid.
    direct = os.getppid() == int(parent)

    def alive() -> bool:
        if direct:
            return os.getppid() == int(parent)
        try:
            os.kill(int(parent), 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    def watch() -> None:
        while alive():
            time.sleep(interval)
        with contextlib.suppress(ProcessLookupError):
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="die-with-parent", daemon=True).start()
