"""What SIGTERM, SIGINT and SIGHUP do to a training. Light: in force before torch is imported, which takes seconds."""

from __future__ import annotations

import signal
from types import FrameType

from trainer.stop_signals import stop_signals


class StopSignal:
    """Takes the signals that ask for the end from its creation on. ``received`` is the last of them, or None.

    Before ``hold`` there is nothing worth saving, and the process ends at once, with 128 + the signal; so it does after
    ``release``, when all is written. In between the signal is only noted.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._held = False
        for number in stop_signals():
            signal.signal(number, self._on_signal)

    def hold(self) -> None:
        """From now on somebody looks at ``received``, and ends well."""
        self._held = True

    def release(self) -> None:
        """From now on a signal ends the process at once again."""
        self._held = False

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        if not self._held:
            raise SystemExit(128 + number)
