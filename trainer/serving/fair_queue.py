"""One thread that owns the model, and clients who take turns at it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any

from trainer.serving.arrays import RequestError

MAX_EACH = 2
"""Requests of one client that may wait; upstream's clients wait for each answer."""
MAX_BYTES = 512 * 1024**2
"""Bytes of all requests that wait."""

Work = Callable[[], Any]


class FairQueue:
    """Requests wait by client, and the clients are served one after the other: one that asks often delays no other."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: dict[Hashable, deque[tuple[Work, int, Future[Any]]]] = {}
        self._bytes = 0
        self._closed = False

    def ask(self, client: Hashable, size: int, work: Work) -> Future[Any]:
        """Call ``work`` when it is the turn of ``client``; ``size`` is that of its request in bytes.

        Raises ``RequestError`` where too much waits already.
        """
        future: Future[Any] = Future()
        with self._changed:
            if self._closed:
                raise RequestError("The server stops.", 503)
            mine = self._waiting.get(client, ())
            if len(mine) >= MAX_EACH or self._bytes + size > MAX_BYTES:
                raise RequestError("Too many requests wait for the model; ask again after the answer.", 503)
            self._waiting.setdefault(client, deque()).append((work, size, future))
            self._bytes += size
            self._changed.notify()
        return future

    def run(self) -> None:
        """Serve until ``close``. Called in the thread that owns the model."""
        while (next_ := self._next()) is not None:
            work, future = next_
            try:
                future.set_result(work())
            except Exception as error:
                future.set_exception(error)

    def close(self) -> None:
        """End ``run`` after the request that is served now; those that wait fail."""
        with self._changed:
            self._closed = True
            left = [future for queue in self._waiting.values() for _, _, future in queue]
            self._waiting.clear()
            self._changed.notify_all()
        for future in left:
            future.set_exception(RequestError("The server stops.", 503))

    def _next(self) -> tuple[Work, Future[Any]] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting)
            if self._closed:
                return None
            client = next(iter(self._waiting))
            queue = self._waiting.pop(client)
            work, size, future = queue.popleft()
            self._bytes -= size
            if queue:
                self._waiting[client] = queue  # behind the others
            return work, future
