"""Following one output stream of a container, through broken connections, with no line lost and none given twice."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from datetime import datetime
from typing import Literal

import docker
import docker.types
from docker.models.containers import Container


class LogReader:
    """Lines of one stream of one container.

    The daemon keeps each line with a timestamp of nanoseconds (a line of more than 16 KiB in pieces of equal ones).
    After a break it is asked for everything since the second of the last line; what came before is skipped, by
    timestamp and, where several are equal, by number.
    """

    def __init__(self, container: Container, stream: Literal["stdout", "stderr"]) -> None:
        self._container = container
        self._stream = stream
        self._last = ""
        """Timestamp of the last piece that was given away, of fixed width, so that text order is time order."""
        self._same = 0
        """How many pieces with that timestamp were given away."""
        self._source: docker.types.CancellableStream | None = None

    def read(self, *, follow: bool) -> Iterator[bytes]:
        """Whole lines not given away yet, without the newline; with ``follow`` until the container or connection ends.

        The end looks the same for both: ask the daemon. Raises what docker-py raises when it can't be reached.
        """
        since = int(datetime.fromisoformat(self._last[:19] + "+00:00").timestamp()) if self._last else None
        source = self._container.logs(
            stdout=self._stream == "stdout",
            stderr=self._stream == "stderr",
            stream=True,
            follow=follow,
            timestamps=True,
            since=since,
        )
        self._source = source
        catching_up, same = bool(self._last), 0
        line: list[tuple[str, bytes]] = []
        try:
            for piece in source:
                time, _, text = piece.partition(b" ")
                stamp = time.decode()
                if catching_up:
                    same += stamp == self._last
                    # Not by time alone: the clock may have been set back after the last line.
                    catching_up = stamp <= self._last and same < self._same
                    if stamp <= self._last:
                        continue
                line.append((stamp, text))
                # What has no newline is part of a long line, or the connection broke within it: then it comes again.
                if not text.endswith(b"\n"):
                    continue
                for each, _ in line:
                    self._same = self._same + 1 if each == self._last else 1
                    self._last = each
                whole = b"".join(text for _, text in line)[:-1]
                line = []
                yield whole
        except struct.error:
            pass  # docker-py, when the connection breaks within the header of a piece
        finally:
            self._source = None

    def drop(self) -> None:
        """Break the connection, from any thread: the reader's loop ends."""
        source = self._source
        if source is not None:
            with contextlib.suppress(Exception):  # it may end by itself at this moment
                source.close()
