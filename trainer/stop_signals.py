"""The signals that ask a program to end."""

from __future__ import annotations

import signal

ECHO_SECONDS = 0.4
"""Two signals within that time are one: `uv run` passes on what its whole process group was sent already, late where
the machine is busy, and who asks once must not get the end that is for asking twice. `TrainerProcess.kill`, which asks
twice, waits longer (`flows/launch/process.py`)."""


def stop_signals() -> list[signal.Signals]:
    """SIGINT, SIGTERM, and SIGHUP of a closed terminal unless it is ignored: `nohup` is to outlive the terminal."""
    hangup = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else []
    return [signal.SIGINT, signal.SIGTERM, *hangup]
