"""The end of the server: by a signal, within seconds, whatever its threads and the libraries are doing."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from types import FrameType

from trainer.stop_signals import stop_signals

GRACE_SECONDS = 5.0
"""Within which replies that are ready are sent; then the process ends as it is."""


def end_by_signals(grace: float = GRACE_SECONDS) -> None:
    """From now on a signal that asks for the end raises ``SystemExit`` in the main thread, with 128 + its number.

    That alone does not always end the process: a call into C, such as loading weights, holds it back; code of others
    that catches everything, or runs where exceptions are only reported, loses it; and Python's own end waits for
    threads and runs the destructors of libraries whose threads still run. So a thread hears of the signal as well, ends
    the process after ``grace`` seconds, and Python's own end is cut short. Called in the main thread.
    """
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)  # written to by the system's handler, whatever Python does
    for number in stop_signals():
        signal.signal(number, _stop)
    threading.Thread(target=_watch, args=(woken, grace), name="ending", daemon=True).start()


def _stop(number: int, _frame: FrameType | None) -> None:
    atexit.register(os._exit, 128 + number)  # the last one registered is the first one called
    sys.exit(128 + number)


def _watch(woken: int, grace: float) -> None:
    asked = set(stop_signals())
    while (number := os.read(woken, 1)[0]) not in asked:
        pass
    time.sleep(grace)
    os._exit(128 + number)
