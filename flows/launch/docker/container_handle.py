"""A trainer in a container, seen as a ``Training``: its events, its end, and stopping it."""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
import time
from pathlib import Path
from typing import Any

import docker
import docker.errors
from docker.models.containers import Container

from flows.launch.docker.docker_client import UNREACHABLE
from flows.launch.docker.logs import LogReader
from flows.launch.docker.stopping import RETRY_SECONDS, send_stop
from flows.launch.follow import STOPPED
from trainer.errors import ExitCode
from trainer.events import ErrorEvent, Event, WarningEvent, parse_event

DAEMON_PATIENCE_SECONDS = 600.0
"""How long a daemon may be away; a restart takes seconds, an upgrade of its package a minute."""
SILENCE_SECONDS = 180.0
"""Without a line for so long the connection is made again: a router may have dropped it silently."""
KILL_SECONDS = 15.0
WAIT_SECONDS = 600.0
LOST = -signal.SIGKILL
MACHINE_WENT_DOWN = 255
"""The exit code that the daemon gives a container which ran when the machine, or the daemon with it, went down. The
trainer has no such code."""
_ENDED = ("exited", "dead")
_OOM_HINT = (
    "Lower --batch-size (of N1.7 --global-batch-size), --dataloader-num-workers and --dataloader-prefetch-factor, or "
    "give it more: PIPPA_MEMORY_LIMIT where one is set, else a machine with more memory: `pippa train … --dry-run` "
    "says how much."
)


class ContainerHandle:
    """Follows a started container from the beginning of its log; the container is removed once its end was read.

    Two threads read stdout (events) and stderr (into ``log``), one waits for the end; a lost daemon is waited for.
    """

    outlives = True

    def __init__(self, container: Container, log: Path) -> None:
        self.log = log
        self.lost = ""
        self._container = container
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._drained = False
        self._code: int | None = None
        self._heard = time.monotonic()
        self._owed = 0
        """How many SIGTERM are still to be sent: the daemon may be away."""
        self._owing = threading.Lock()
        self._said_error = False
        self._out, self._err = LogReader(container, "stdout"), LogReader(container, "stderr")
        self._last_word: int | None = None
        """The exit code as reported at the end: another process may remove the container before its state is read."""
        self._end_thread = threading.Thread(target=self._wait, name="trainer-end", daemon=True)
        self._end_thread.start()
        self._log_thread = threading.Thread(target=self._keep_log, name="trainer-log", daemon=True)
        self._log_thread.start()
        self._event_thread = threading.Thread(target=self._read, name="trainer-events", daemon=True)
        self._event_thread.start()

    @property
    def name(self) -> str:
        """The container's name."""
        return str(self._container.name)

    def next_event(self, timeout: float) -> Event | None:
        """The next event, or None when ``timeout`` seconds passed without one, or none will follow."""
        if self._drained:
            return None
        if time.monotonic() - self._heard > SILENCE_SECONDS:
            self._heard = time.monotonic()
            self._out.drop()
        try:
            event = self._events.get(timeout=timeout)
        except queue.Empty:
            return None
        self._drained = event is None
        return event

    @property
    def exit_code(self) -> int | None:
        """The exit code once the trainer has ended and every event was read."""
        return self._code if self._drained else None

    def terminate(self) -> None:
        """SIGTERM to the trainer (its init forwards it) unless it was sent; if the daemon is away, once it is back."""
        with self._owing:
            self._owed += 1
        self._send_owed()

    def kill(self) -> None:
        """End the trainer with everything it started, and remove the container."""
        deadline = time.monotonic() + KILL_SECONDS
        if self._event_thread.is_alive():
            with contextlib.suppress(docker.errors.APIError, *UNREACHABLE):
                self._container.kill()
            self._event_thread.join(KILL_SECONDS)
        while True:
            try:
                # Anonymous volumes go too, those with a name stay.
                self._container.remove(force=True, v=True)
                return
            except docker.errors.NotFound:
                return
            except (docker.errors.APIError, *UNREACHABLE) as error:
                if isinstance(error, docker.errors.APIError) and error.status_code == 409:
                    return  # it is being removed already
                if time.monotonic() > deadline:
                    # The reaper finds it by its labels.
                    self._events.put(WarningEvent(message=f"The container {self.name} could not be removed: {error}"))
                    return
            time.sleep(RETRY_SECONDS)

    def _send_owed(self) -> None:
        with self._owing:
            while self._owed:
                try:
                    send_stop(self._container)
                except docker.errors.APIError:
                    pass  # it has ended, or is gone
                except UNREACHABLE:
                    return
                self._owed -= 1

    def _wait(self) -> None:
        while self._last_word is None:
            try:
                self._last_word = int(self._container.wait(timeout=WAIT_SECONDS)["StatusCode"])
            except docker.errors.APIError:
                return  # it is gone
            except UNREACHABLE:  # or has not ended for so long
                if self._drained:
                    return
                time.sleep(RETRY_SECONDS)

    def _read(self) -> None:
        state = self._follow(self._out, self._event, announce=True)
        self._log_thread.join(KILL_SECONDS)
        self._code = self._end(state)
        self._events.put(None)  # last: its reader must find the exit code

    def _keep_log(self) -> None:
        with self.log.open("wb") as file:

            def write(line: bytes) -> None:
                file.write(line + b"\n")
                file.flush()

            self._follow(self._err, write)

    def _event(self, line: bytes) -> None:
        self._heard = time.monotonic()
        if event := parse_event(line.decode(errors="replace").rstrip()):
            self._said_error = self._said_error or isinstance(event, ErrorEvent)
            self._events.put(event)

    def _follow(self, reader: LogReader, give: Any, *, announce: bool = False) -> dict[str, Any] | None:
        """Give away every line until the container has ended; its state then, None when it or the daemon is gone."""
        away: float | None = None
        ended: dict[str, Any] | None = None

        def answered() -> None:
            nonlocal away
            if away is not None and announce:
                self._events.put(WarningEvent(message="The Docker daemon is back; the training continued meanwhile."))
            away = None

        while True:
            lines = 0
            try:
                if away is not None:
                    # Not left to the log: the trainer may say nothing for long.
                    self._container.reload()
                    answered()
                    self._send_owed()
                for line in reader.read(follow=ended is None):
                    lines += 1
                    give(line)
                    if self._owed:
                        self._send_owed()
                # A broken connection ends like a finished one. What was there at the end is complete when reading it
                # once more brings nothing.
                if ended is not None and not lines:
                    return ended
                self._container.reload()
                self._send_owed()
                state = self._container.attrs["State"]
                if state["Status"] in _ENDED:
                    ended = state
                elif not lines:
                    time.sleep(RETRY_SECONDS)
            except docker.errors.NotFound:
                self.lost = self.lost or f"The container {self.name} was removed while it ran."
                return None
            except (docker.errors.DockerException, *UNREACHABLE) as error:
                if isinstance(error, docker.errors.APIError) and error.status_code == 409:
                    pass  # it is being removed
                elif away is None:
                    away = time.monotonic()
                    if announce:
                        self._events.put(WarningEvent(message=f"The Docker daemon does not answer: {_short(error)}"))
                elif time.monotonic() - away > DAEMON_PATIENCE_SECONDS:
                    self.lost = "The Docker daemon went away and did not come back."
                    return None
                time.sleep(RETRY_SECONDS)

    def _end(self, state: dict[str, Any] | None) -> int:
        """The exit code that ``state`` means, an error event first where the kernel has the last word."""
        if state is None:
            self._end_thread.join(KILL_SECONDS)
            if self._last_word in (None, 128 + signal.SIGKILL):
                return LOST
            state = {"ExitCode": self._last_word}
        code = int(state["ExitCode"])
        if state.get("OOMKilled") and code == 128 + signal.SIGKILL and not self._said_error:
            self._events.put(
                ErrorEvent(
                    code=ExitCode.OUT_OF_MEMORY,
                    message="The container ran out of memory (host RAM) and the trainer was killed.",
                    hint=_OOM_HINT,
                )
            )
            return ExitCode.OUT_OF_MEMORY
        if reason := state.get("Error"):
            self.lost = f"The Docker daemon ended the container: {reason}"
        if code == MACHINE_WENT_DOWN and not self._said_error:
            self.lost = self.lost or f"The machine went down while the container {self.name} ran."
            return LOST
        return 128 - code if code > 128 and code not in STOPPED else code


def _short(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
