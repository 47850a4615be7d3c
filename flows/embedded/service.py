"""``SharedService``: one background program per ``PIPPA_HOME``, shared by every pippa process, gone with the last.

Files in ``<home>/<name>/``:

- ``users.lock``   held shared by each user as long as it lives. The kernel releases it even after ``kill -9``.
- ``start.lock``   held exclusively while somebody looks whether a server runs and, if not, starts one.
- ``guard.lock``   held exclusively by the guard (``guard.py``), which runs the program; held means a server is alive.
- ``server.json``  how to reach the server (mode 0600: it may hold credentials), with a token of this start.
- ``ready``        the token of a start that somebody has seen healthy.
- ``server.log``   what the program and the guard print.

The races, and what decides them:

- *Two processes start at once*: ``start.lock`` lets one look and spawn; the other then finds ``guard.lock`` held.
  The starter locks ``guard.lock`` itself and hands the locked descriptor on, so there is no moment in between.
- *A user arrives while the guard is stopping the program*: the guard keeps ``users.lock`` exclusively until it exits;
  the user waits in ``flock`` and then starts a new server.
- *A stale* ``server.json`` *after a power cut or a killed guard*: nobody holds ``guard.lock``, so it is overwritten.
- *The program dies before it was ready*: the guard removes ``server.json``; each waiting user sees its token gone and
  tries once more (which also heals a port that another program took between our choice and the server's start).
- *A child process outlives the user*: the descriptors are not inherited on exec and are closed after a fork.

Lock files are never deleted: a lock on a deleted file excludes nobody.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from trainer.errors import PippaError

GUARD = Path(__file__).with_name("guard.py")
LOG_LIMIT_BYTES = 4_000_000
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Program:
    """What to run, and how its users reach it."""

    argv: list[str]
    """Visible to everybody on the machine: no secrets."""
    environ: Mapping[str, str]
    """The whole environment of the program, and the place for secrets."""
    connection: dict[str, Any]
    """What users need to reach it; JSON, kept in ``server.json``."""


class SharedService:
    """One background program, used as a context manager: ``with service as connection: …``.

    ``start`` returns as soon as the program is spawned and ``wait_ready`` waits, so several services can start side
    by side. ``prepare(folder)`` is called only when a new server is to be started, and must be quick;
    ``healthy(connection)`` says whether the server answers, and may raise ``OSError`` when it doesn't.
    One instance belongs to one thread; several instances may share one server.
    """

    def __init__(
        self,
        home: Path,
        name: str,
        *,
        prepare: Callable[[Path], Program],
        healthy: Callable[[dict[str, Any]], bool],
        timeout: float = 60.0,
        grace: float = 10.0,
        error: type[PippaError] = PippaError,
    ) -> None:
        self.name = name
        self.folder = home.absolute() / name
        self._prepare = prepare
        self._healthy = healthy
        self._timeout = timeout
        self._grace = grace
        self._error = error
        self._users: int | None = None
        self._token = ""
        self._connection: dict[str, Any] = {}

    @property
    def log(self) -> Path:
        """What the program prints."""
        return self.folder / "server.log"

    def start(self) -> None:
        """Become a user, and start the program unless it runs. Does not wait for it to be ready.

        Raises the service's error when the program can't be spawned.
        """
        if self._users is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        users = _open_lock(self.folder / "users.lock")
        try:
            # Waits only while a guard is ending its program, which is bounded by the grace period.
            fcntl.flock(users, fcntl.LOCK_SH)
            self._users = users
            _HOLDERS.add(self)
            self._attach_or_spawn()
        except BaseException:
            self._users = users
            self._release()
            raise

    def wait_ready(self) -> dict[str, Any]:
        """Wait until the program answers, and return its connection.

        Raises the service's error, with the end of the program's log, when it died or ``timeout`` seconds passed.
        """
        if self._users is None:
            raise RuntimeError("wait_ready() before start()")
        deadline = time.monotonic() + self._timeout
        retried = False
        while True:
            if not self._alive():
                if retried:
                    raise self._failure("ended while starting")
                retried = True
                self._attach_or_spawn()
            try:
                if self._healthy(self._connection):
                    # Only now may the guard restart the program: one that never worked is reported instead.
                    _write_private(self.folder / "ready", self._token)
                    return self._connection
            except OSError:
                pass
            if time.monotonic() > deadline:
                raise self._failure(f"did not answer within {self._timeout:g} s")
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Stop being a user; the last one waits until the program is gone, so that nothing survives a command."""
        if self._users is None:
            return
        fcntl.flock(self._users, fcntl.LOCK_UN)
        deadline = time.monotonic() + self._grace + 5.0
        while self._alive() and not self._others() and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        self._release()

    def __enter__(self) -> dict[str, Any]:
        self.start()
        try:
            return self.wait_ready()
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def tail(self, lines: int = 20) -> str:
        """The end of the log."""
        try:
            text = self.log.read_text(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def _failure(self, what: str) -> PippaError:
        return self._error(
            f"The {self.name} server {what}. The end of its log:\n{self.tail()}", f"The whole log is {self.log}."
        )

    def _attach_or_spawn(self) -> None:
        """Under ``start.lock``: take the connection of the server that runs, or start one."""
        start = _open_lock(self.folder / "start.lock")
        try:
            fcntl.flock(start, fcntl.LOCK_EX)
            deadline = time.monotonic() + self._grace + 5.0
            while True:
                guard = _open_lock(self.folder / "guard.lock")
                try:
                    fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return self._spawn(guard)
                except BlockingIOError:
                    server = self._read_server()
                finally:
                    os.close(guard)
                if server is not None:
                    self._token, self._connection = server
                    return None
                # A guard without server.json is on its way out: its program died.
                if time.monotonic() > deadline:
                    raise self._failure("is stopping and does not end")
                time.sleep(POLL_SECONDS)
        finally:
            os.close(start)

    def _spawn(self, guard_lock: int) -> None:
        program = self._prepare(self.folder)
        self._token, self._connection = secrets.token_hex(16), program.connection
        _write_private(
            self.folder / "server.json", json.dumps({"token": self._token, "connection": program.connection})
        )
        if self.log.exists() and self.log.stat().st_size > LOG_LIMIT_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        command = [sys.executable, "-I", "-S", str(GUARD), str(self.folder), self._token, str(self._grace)]
        with self.log.open("ab") as log:
            try:
                code = subprocess.Popen(
                    [*command, "--", *program.argv],
                    env=dict(program.environ),
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # the terminal's Ctrl-C is for the users, not for the server
                    pass_fds=[guard_lock],
                ).wait()
            except OSError as error:
                raise self._error(f"Can't start the {self.name} server: {error}") from error
        if code:
            raise self._failure("could not be started")

    def _read_server(self) -> tuple[str, dict[str, Any]] | None:
        try:
            document = json.loads((self.folder / "server.json").read_text())
            return document["token"], document["connection"]
        except (OSError, ValueError, KeyError):
            return None

    def _alive(self) -> bool:
        """Whether ``server.json`` is still of the start we know; the guard removes it after the program."""
        server = self._read_server()
        return server is not None and server[0] == self._token

    def _others(self) -> bool:
        """Whether other users hold the lock (and not nobody, nor the guard)."""
        assert self._users is not None  # noqa: S101 - narrows the type
        try:
            for mode in (fcntl.LOCK_EX, fcntl.LOCK_SH):
                try:
                    fcntl.flock(self._users, mode | fcntl.LOCK_NB)
                    return mode == fcntl.LOCK_SH
                except BlockingIOError:
                    continue
            return False
        finally:
            fcntl.flock(self._users, fcntl.LOCK_UN)

    def _release(self) -> None:
        _HOLDERS.discard(self)
        if self._users is not None:
            os.close(self._users)
            self._users = None


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _write_private(path: Path, text: str) -> None:
    """Replace ``path`` in one step, readable by its owner only from the first moment."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    temporary.replace(path)


_HOLDERS: weakref.WeakSet[SharedService] = weakref.WeakSet()


def _forget_in_child() -> None:
    # A forked child (a data loading worker) shares the lock's open file; left open, it would keep the server alive
    # after its parent. Closing there does not unlock here.
    for service in list(_HOLDERS):
        service._release()


os.register_at_fork(after_in_child=_forget_in_child)
