"""What pippa's programs write to stdout and stderr: no secret, and nothing that fails because the reader is gone."""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, TextIO

from trainer.disk import is_disk_full
from trainer.masking import Masker


class _Masked(io.TextIOBase):
    """A stream that writes what ``masker`` leaves."""

    def __init__(self, stream: TextIO, masker: Masker, *, log: bool) -> None:
        self._stream, self._masker = stream, masker
        self._log = log
        """Whether it is no result: what finds no space on its disk is then dropped."""

    def write(self, text: str) -> int:
        if ready := self._masker.feed(text):
            with self._dropped_where_full():
                self._stream.write(ready)
        return len(text)

    def flush(self) -> None:
        with self._dropped_where_full():
            self._stream.flush()

    @contextlib.contextmanager
    def _dropped_where_full(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not (self._log and is_disk_full(error)):
                raise

    def finish(self) -> None:
        try:
            self._stream.write(self._masker.rest())
            self._stream.flush()
        except (OSError, ValueError) as error:
            # Python would try again at its end, and change the exit code.
            silence_lost_output()
            if self._log and is_disk_full(error):
                with suppress(OSError, ValueError):
                    _silence(self._stream.fileno())

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


@contextlib.contextmanager
def masked_output(environ: Mapping[str, str]) -> Iterator[None]:
    """Write no secret of ``environ`` to stdout and stderr in this block."""
    before = sys.stdout, sys.stderr
    covered = [_Masked(stream, Masker.of(environ), log=stream is sys.stderr) for stream in before]
    sys.stdout, sys.stderr = covered
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in covered:
            stream.finish()


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
