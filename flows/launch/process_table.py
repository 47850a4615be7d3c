"""What runs on this machine: from /proc where there is one, from ``ps`` elsewhere (macOS)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from uuid import UUID

PROC = Path("/proc")


def children() -> list[int]:
    """The processes that this one started and that are still there."""
    listed = PROC / f"self/task/{os.getpid()}/children"
    if listed.is_file():
        return [int(pid) for pid in listed.read_text().split()]
    rows = [line.split() for line in _ps("-o", "pid=", "-o", "ppid=")]
    return [int(pid) for pid, parent in rows if parent == str(os.getpid()) and _exists(int(pid))]


def has_process(flow_run_id: UUID) -> bool:
    """Whether a process of this machine (of this container, in one) carries out the flow run for a worker."""
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
