"""Runs the trainer as a child process on this machine, with the same Python."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from flows.launch import Job, Log, log_file, needed_secrets
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.run_spec import Engine
from trainer.errors import PippaError
from trainer.events import Event, parse_event
from trainer.masking import without_secrets
from trainer.runner import wandb_setup
from trainer.runner.parent_watch import child_environment
from trainer.runner.run_spec_builder import require_engine_here

KILL_SECONDS = 5.0
DRAIN_SECONDS = 5.0

_TRAINER = (sys.executable, "-m", "trainer.cli")


class ProcessLauncher:
    """Starts ``python -m trainer.cli …``; its stderr goes to a file under ``home``."""

    def __init__(self, home: Path, command: Sequence[str] = _TRAINER) -> None:
        self._home = home
        self._command = list(command)

    def require(self, config: FinetuneConfig, engine: Engine) -> None:  # noqa: ARG002
        """Refuse an engine that this Python would not start. What it trains on, it says itself."""
        require_engine_here(engine)

    def knows(self, name: str) -> bool:  # noqa: ARG002
        """False: no process outlives the one that started it."""
        return False

    def image(self, engine: Engine, log: Log = lambda _: None) -> str | None:  # noqa: ARG002
        """None: a process runs in no image."""
        return None

    def start(self, job: Job, environ: Mapping[str, str]) -> TrainerProcess:
        """Start the trainer in a new session, so that Ctrl-C in the terminal reaches only pippa.

        It ends by itself when pippa is killed: ``trainer.runner.parent_watch`` sees to that. So there is never one to
        re-attach to.
        """
        log = log_file(self._home, job)
        command = [*self._command, *job.arguments]
        # What a process of a person's own may sign in with besides: `wandb`'s and the hub's own ways.
        keep = [*needed_secrets(job), *wandb_setup.SECRETS, "HUGGING_FACE_HUB_TOKEN"]
        environ = {**without_secrets(environ, keep), **child_environment()}
        with log.open("wb") as errors:
            try:
                process = subprocess.Popen(
                    command,
                    env=environ,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    start_new_session=True,
                )
            except OSError as error:
                raise PippaError(f"Can't start {command[0]}: {error.strerror}.") from error
        return TrainerProcess(process, log)


class TrainerProcess:
    """A trainer in a process. Its events are read by a thread, so that a signal never interrupts half a line."""

    outlives = False

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.log = log
        self.lost = ""
        self._process = process
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._drained = False
        self._ended: float | None = None
        threading.Thread(target=self._read, name="trainer-events", daemon=True).start()

    @property
    def pid(self) -> int:
        """The trainer's process id."""
        return self._process.pid

    def next_event(self, timeout: float) -> Event | None:
        """The next event, or None when ``timeout`` seconds passed without one, or none will follow."""
        if self._drained:
            return None
        try:
            event = self._events.get(timeout=timeout)
        except queue.Empty:
            self._unblock()
            return None
        self._drained = event is None
        return event

    @property
    def exit_code(self) -> int | None:
        """The exit code once the trainer has ended and every event was read."""
        return self._process.poll() if self._drained else None

    def terminate(self) -> None:
        """SIGTERM to the trainer only: its engine must live on until it has saved."""
        self._process.terminate()

    def kill(self) -> None:
        """End the trainer and its engine: a second SIGTERM makes it kill the engine's group, SIGKILL ends the rest."""
        deadline = time.monotonic() + KILL_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.5)
        self._kill_group()
        self._process.wait()

    def _unblock(self) -> None:
        """A process the trainer left behind may hold its stdout open, and the reader would wait for it forever."""
        if self._process.poll() is None:
            return
        self._kill_group()
        self._ended = self._ended or time.monotonic()
        self._drained = time.monotonic() - self._ended > DRAIN_SECONDS

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _read(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None  # noqa: S101 - a pipe
        with stdout:
            for line in stdout:
                if event := parse_event(line.decode(errors="replace").rstrip()):
                    self._events.put(event)
        # The reader of the end must find the exit code.
        self._process.wait()
        self._events.put(None)
