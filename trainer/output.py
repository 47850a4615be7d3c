"""What pippa's programs write to stdout and stderr: no secret, and nothing that fails because the reader is gone."""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import sys
from collections.abc import Generator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from trainer.disk import is_disk_full
from trainer.errors import ExitCode
from trainer.masking import Masker


class _Masked(io.TextIOBase):
    """A stream that writes what ``masker`` leaves, and drops it once its disk is full or its reader is gone."""

    def __init__(self, stream: TextIO, masker: Masker, *, log: bool) -> None:
        self._stream, self._masker = stream, masker
        self.log = log
        """Whether it is no result: then its loss changes no exit code."""
        self.lost: OSError | None = None
        """Why something of it was dropped."""

    def write(self, text: str) -> int:
        if ready := self._masker.feed(text):
            with self._dropped_where_lost():
                self._stream.write(ready)
        return len(text)

    def flush(self) -> None:
        if self._stream.closed:  # Python flushes this object at its end, which may come later
            return
        with self._dropped_where_lost():
            self._stream.flush()

    @contextlib.contextmanager
    def _dropped_where_lost(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            if not (is_disk_full(error) or isinstance(error, BrokenPipeError)):
                raise
            self.lost = error
            # What is still in its buffer would fail again, at the latest at Python's end, which changes the exit code.
            with suppress(OSError, ValueError):
                _silence(self._stream.fileno())

    def finish(self) -> None:
        try:
            with self._dropped_where_lost():
                self._stream.write(self._masker.rest())
                self._stream.flush()
        except (OSError, ValueError):
            silence_lost_output()

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self._stream.errors

    @property
    def buffer(self) -> Any:
        return self._stream.buffer


class Output:
    """What this program writes to stdout and stderr, in a block of ``masked_output``."""

    def __init__(self, stdout: _Masked, stderr: _Masked) -> None:
        self._stdout, self._stderr = stdout, stderr

    def finished(self, code: int) -> int:
        """The exit code of a program that would end with ``code``, after its last word.

        A result that finds no space is an error (``DISK_FULL``), said once on stderr; a log that does, or one that
        nobody reads any more, is none.
        """
        self._stdout.finish()
        lost = self._stdout.lost
        if lost is not None and is_disk_full(lost):
            self._stderr.write(f"error: stdout is not complete: {lost.strerror}.\nFree space where it is written to.\n")
            if not self._stdout.log:
                code = code or ExitCode.DISK_FULL
        self._stderr.finish()
        return int(code)


@contextlib.contextmanager
def masked_output(environ: Mapping[str, str]) -> Generator[Output]:
    """Write no secret of ``environ`` to stdout and stderr in this block, and let none of their losses end the work.

    A program whose stdout is a pipe that nobody reads any more works on to its end, with its own exit code.
    """
    before = sys.stdout, sys.stderr
    with contextlib.ExitStack() as closed:
        # Python has None for one that was closed, as by `>&-`.
        streams = [each or closed.enter_context(Path(os.devnull).open("w")) for each in before]
        covered = [_Masked(each, Masker.of(environ), log=each is streams[1]) for each in streams]
        sys.stdout, sys.stderr = covered
        try:
            yield Output(*covered)
        finally:
            sys.stdout, sys.stderr = before
            for stream in covered:
                stream.finish()


def stdout_is_log() -> None:
    """From now on stdout is no result: what this program does is kept elsewhere."""
    if isinstance(sys.stdout, _Masked):
        sys.stdout.log = True


def require_reader() -> None:
    """End this program, as the signal SIGPIPE ends others, where nobody reads its stdout any more."""
    if isinstance(sys.stdout, _Masked) and isinstance(sys.stdout.lost, BrokenPipeError):
        sys.exit(128 + signal.SIGPIPE)


def silence_lost_output() -> bool:
    """Point stdout and stderr at nothing where their reader is gone, such as a closed terminal; whether one was.

    Each write there would be an error, in the middle of what saves a training.
    """
    lost = False
    for descriptor in (1, 2):
        poll = select.poll()
        with suppress(OSError, ValueError):
            poll.register(descriptor, 0)  # Python reports what is wrong with it
            if any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0)):
                _silence(descriptor)
                lost = True
    return lost


def _silence(descriptor: int) -> None:
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, descriptor)
    os.close(nothing)
