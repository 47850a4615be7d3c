"""The guard of one shared background program: runs it, and ends it when its last user is gone.

``flows.embedded.service`` starts this file as a script (standard library only, so that it starts in milliseconds):

    guard.py FOLDER TOKEN GRACE_SECONDS -- PROGRAM ARGUMENT …

It inherits ``guard.lock`` open and locked (the kernel unlocks it when the guard ends) and the program's environment.
What happens when:

- *No users left*: every user holds a shared lock on ``users.lock``; the kernel drops it whatever ends the process. Once
  the guard gets the exclusive lock it keeps it until it exits, so a user who arrives meanwhile waits in ``flock``
  for the program's end and then starts a new one, never attaches to a program that is going down.
- *The program dies by itself*: if a user has seen it healthy (``ready`` holds our token) it is restarted with the same
  ports and credentials, after a pause that doubles; else, or after too many quick deaths, ``server.json`` is removed,
  which is how waiting users learn of it.
- *The guard is killed*: the kernel kills the program with it (Linux: ``PR_SET_PDEATHSIG``) and releases ``guard.lock``,
  so the ``server.json`` left behind is known to be stale.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

POLL_SECONDS = 0.2
QUICK_DEATH_SECONDS = 60.0
QUICK_DEATHS = 5


def log(message: str) -> None:
    """Write a line between the program's own (both go to ``server.log``)."""
    sys.stderr.write(f"guard {os.getpid()}: {message}\n")
    sys.stderr.flush()


def holds_token(file: Path, token: str) -> bool:
    """Whether ``file`` was written for the program this guard runs."""
    try:
        return token in file.read_text()
    except OSError:
        return False


def die_with_guard() -> None:
    """In the child, before exec: have the kernel kill the program should the guard be killed."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def spawn(command: list[str]) -> subprocess.Popen[bytes] | None:
    """Start the program in a process group of its own; None (and a line in the log) when it can't be started."""
    try:
        # One thread runs here, so preexec_fn is safe. flock'd descriptors are not passed on (close_fds).
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            process_group=0,
            preexec_fn=die_with_guard,
        )
    except OSError as error:
        log(f"can't start {command[0]}: {error}")
        return None
    log(f"started {Path(command[0]).name}, pid {process.pid}")
    return process


def stop(process: subprocess.Popen[bytes], grace: float) -> None:
    """TERM to the program's group, then KILL to whatever of it is left."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            log(f"still running {grace:g} s after SIGTERM; killing it")
    kill_group(process.pid)
    process.wait()


def kill_group(group: int) -> None:
    """End the helpers a program left in its group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def guard(folder: Path, token: str, grace: float, command: list[str]) -> None:
    """Run the program until nobody uses it, it dies for good, or SIGTERM asks the guard to end."""
    users = os.open(folder / "users.lock", os.O_RDWR)
    stopping = False

    def ask_to_stop(_signal: int, _frame: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, ask_to_stop)
    process = spawn(command)
    started, quick_deaths, restart_at = time.monotonic(), 0, 0.0
    while not stopping:
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            log("no users left")
            break
        except BlockingIOError:
            pass
        if process is not None and process.poll() is not None:
            log(f"the program ended by itself: {describe_exit(process.returncode)}")
            kill_group(process.pid)
            process = None
            quick_deaths = quick_deaths + 1 if time.monotonic() - started < QUICK_DEATH_SECONDS else 1
            restart_at = time.monotonic() + 0.25 * 2**quick_deaths
        if process is None:
            if not holds_token(folder / "ready", token) or quick_deaths > QUICK_DEATHS:
                break
            if time.monotonic() >= restart_at:
                process = spawn(command)
                started = time.monotonic()
                if process is None:
                    break
        time.sleep(POLL_SECONDS)
    if process is not None:
        stop(process, grace)


def describe_exit(code: int) -> str:
    """``exit code 1``, or the name of the signal that killed it."""
    return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"


def main(arguments: list[str]) -> None:
    """Detach from the starter, run, and clean up."""
    folder, token, grace = Path(arguments[0]), arguments[1], float(arguments[2])
    command = arguments[4:]
    # The starter waits for this first process only; its child belongs to init and leaves no zombie to any user.
    # flock belongs to the open file, so the child keeps guard.lock.
    if os.fork():
        os._exit(0)
    try:
        guard(folder, token, grace, command)
    finally:
        # Last, so that a user who sees it go knows that the program is gone.
        if holds_token(folder / "server.json", token):
            (folder / "server.json").unlink(missing_ok=True)


if __name__ == "__main__":
    main(sys.argv[1:])
