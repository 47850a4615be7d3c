"""Runs an engine as a child process: its lines become events and log, signals reach it once, its end is explained."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import BinaryIO

from trainer.errors import PippaError
from trainer.events import CheckpointEvent, DoneEvent, ErrorEvent, Event, parse_event
from trainer.memory_advice import GENERAL_ADVICE
from trainer.runner.crash_diagnosis import OomKills, explain
from trainer.stop_signals import ECHO_SECONDS, stop_signals

TAIL_LINES = 200
_BARS = 16_384


class Interrupted(BaseException):
    """A signal asked this process to stop. Like KeyboardInterrupt, no ``except Exception`` swallows it."""


class Signals:
    """SIGTERM, SIGINT and SIGHUP for a whole run, as a context manager.

    Before the training the first signal raises ``Interrupted``. From the start of the engine on (``deferred``) it is
    only noted, and a child that runs gets it as SIGTERM, so that it saves a last checkpoint. A second signal kills the
    child's whole process group. Two within ``ECHO_SECONDS`` are one.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.count = 0
        self._last = float("-inf")
        self.deferred = False
        self._child: subprocess.Popen[bytes] | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> Signals:
        for number in stop_signals():
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def forward_to(self, child: subprocess.Popen[bytes]) -> Generator[None]:
        """Send what arrives in this block to ``child``."""
        self._child = child
        if self.received is not None:  # it came between the start of the child and here
            child.terminate()
        try:
            yield
        finally:
            self._child = None

    @property
    def exit_code(self) -> int:
        """128 + the first signal's number."""
        return 128 + (self.received or 0)

    @property
    def repeated(self) -> bool:
        """Whether a second signal came."""
        return self.count > 1

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if now - self._last < ECHO_SECONDS:
            return
        self._last = now
        self.count += 1
        self.received = self.received or number
        if self._child is not None:
            if self.repeated:
                kill_group(self._child)
            else:
                # Only the child itself: its data loading processes must live on until it has saved.
                self._child.terminate()
        elif not self.deferred or self.repeated:
            raise Interrupted


@dataclass(frozen=True)
class Outcome:
    """How a child ended. ``returncode`` is negative for a signal; ``error`` is the error event it printed, if any."""

    returncode: int
    tail: list[str]
    error: ErrorEvent | None
    oom_kills: OomKills

    def problem(self, advice: str = GENERAL_ADVICE) -> PippaError | None:
        """The error that explains a bad end; ``advice`` as for ``explain``."""
        if self.returncode == 0:
            return None
        return explain(self.returncode, self.tail, self.error, oom_kills=self.oom_kills, advice=advice)


class _Output:
    """Where the lines of a child go."""

    def __init__(
        self, emit: Callable[[Event], None], log: Callable[[str], None], translate: Callable[[str], list[Event]] | None
    ) -> None:
        self._emit = emit
        self._log = log
        self._translate = translate
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.error: ErrorEvent | None = None
        """The last one it printed."""

    def read(self, stream: BinaryIO, *, stdout: bool) -> None:
        """All lines until the end of ``stream``."""
        for line in _lines(stream):
            # ValueError: a straggler's line after the log was closed. The pipe must be drained, or the engine stops.
            with contextlib.suppress(ValueError):
                self._relay(line, stdout=stdout)

    def _relay(self, line: str, *, stdout: bool) -> None:
        event = parse_event(line) if stdout else None
        if isinstance(event, ErrorEvent):
            self.error = event
        elif event is not None:
            if not isinstance(event, CheckpointEvent | DoneEvent):
                self._emit(event)
        else:
            translated = self._translate(line) if self._translate else []
            for each in translated:
                self._emit(each)
            if not (translated or _is_bar(line)):
                self.tail.append(line)
                self._log(line)


def run_child(
    command: list[str],
    environ: Mapping[str, str],
    signals: Signals,
    *,
    emit: Callable[[Event], None],
    log: Callable[[str], None],
    translate: Callable[[str], list[Event]] | None = None,
    keep_fds: Sequence[int] = (),
) -> Outcome:
    """Run ``command`` in a new process group until it ends.

    Event lines on its stdout are relayed through ``emit`` (but ``checkpoint`` and ``done``, which only the supervisor
    can say, and ``error``, which comes back in the outcome); ``translate`` makes events of other lines; everything else
    goes to ``log``. Whatever it leaves running in its group is killed. Raises ``FileNotFoundError`` or
    ``PermissionError`` when ``command`` can't be started.
    """
    output = _Output(emit, log, translate)
    kills = OomKills.now()
    signals.deferred = True  # an exception between the child's start and its `try` would leave it behind

    child = subprocess.Popen(
        command,
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        pass_fds=tuple(keep_fds),
    )
    assert child.stdout is not None and child.stderr is not None  # noqa: S101 - both are pipes
    readers = [
        threading.Thread(target=output.read, args=(stream,), kwargs={"stdout": stream is child.stdout}, daemon=True)
        for stream in (child.stdout, child.stderr)
    ]
    try:
        with signals.forward_to(child):
            for reader in readers:
                reader.start()
            # With a timeout it looks again and again. A wait in the kernel would miss a signal that comes just before
            # it, or that another thread gets: Python's handlers run in this thread, once it is awake.
            child.wait(threading.TIMEOUT_MAX)
    finally:
        # Data loading processes that outlive the engine would hold the pipes, and the GPU, open.
        kill_group(child)
        child.wait()
        for reader in readers:
            reader.join(timeout=10)
    return Outcome(child.returncode, list(output.tail), output.error, OomKills.now().since(kills))


def kill_group(child: subprocess.Popen[bytes]) -> None:
    """SIGKILL to every process in ``child``'s group that is left."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


def _lines(stream: BinaryIO) -> Iterator[str]:
    r"""The lines of ``stream``, also those that end in ``\r``, as progress bars write them."""
    rest = b""
    while chunk := stream.read1(_BARS):  # type: ignore[attr-defined]
        *whole, rest = (rest + chunk).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        yield from (line.decode(errors="replace").rstrip() for line in whole if line.strip())
    if rest.strip():
        yield rest.decode(errors="replace").rstrip()


def _is_bar(line: str) -> bool:
    """A progress bar in the middle of its way; only its end is worth a line in the log."""
    return "%|" in line and "100%|" not in line
