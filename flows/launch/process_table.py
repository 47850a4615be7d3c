"""What runs on this machine: from /proc where there is one, from ``ps`` elsewhere (macOS)."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from uuid import UUID

PROC = Path("/proc")


def children() -> list[int]:
    """The processes that this one started, in whichever thread, and that are still there."""
    if (PROC / f"self/task/{os.getpid()}/children").is_file():
        found: list[int] = []
        for listed in PROC.glob("self/task/*/children"):
            with suppress(OSError):  # that thread has ended, and its children are another one's
                found += [int(pid) for pid in listed.read_text().split()]
        return found
    rows = [line.split() for line in _ps("-o", "pid=", "-o", "ppid=")]
    return [int(pid) for pid, parent in rows if parent == str(os.getpid()) and _exists(int(pid))]


def end(pids: Iterable[int], seconds: float = 5.0) -> None:
    """SIGTERM to these children of this process, SIGKILL to those still there ``seconds`` later."""
    left = {pid for pid in pids if _signalled(pid, signal.SIGTERM)}
    deadline = time.monotonic() + seconds
    while left and time.monotonic() < deadline:
        left = {pid for pid in left if not _reaped(pid)}
        time.sleep(0.02)
    for pid in left:
        _signalled(pid, signal.SIGKILL)


def _signalled(pid: int, number: signal.Signals) -> bool:
    """Whether there was such a process to signal."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False


def _reaped(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:  # its parent was first
        return True


def has_process(flow_run_id: UUID) -> bool:
    """Whether a process of this machine (of this container, in one) runs the flow run for a worker."""
    wanted = f"PREFECT__FLOW_RUN_ID={flow_run_id}"
    if not (PROC / "self/environ").is_file():
        # -E shows a process's environment behind its command. A lookalike in a command keeps a container, no more.
        return any(wanted in line.split() for line in _ps("-E", "-ww", "-o", "command="))
    for environ in PROC.glob("[0-9]*/environ"):
        try:
            if wanted.encode() in environ.read_bytes().split(b"\0"):
                return True
        except OSError:  # somebody else's process, or one that just ended
            continue
    return False


def _ps(*columns: str) -> list[str]:
    """A line per process; none where there is no ``ps``."""
    try:
        done = subprocess.run(["ps", "-A", *columns], capture_output=True, text=True, errors="replace", check=False)
    except FileNotFoundError:
        return []
    return done.stdout.splitlines()


def _exists(pid: int) -> bool:
    """``ps`` lists itself, and has ended since."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
