"""Several transfers at once: the first failure, or Ctrl-C, ends the others soon."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any, TypeVar

LOOKUPS = 16
"""Small requests at once."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class StoppedError(Exception):
    """Raised inside a transfer because another one failed; never seen outside."""


class Progress:
    """Counts bytes from several threads and reports ``(done, total)``."""

    def __init__(self, total: int, report: Callable[[int, int], None] | None = None) -> None:
        self.total = total
        self.done = 0
        self._report = report
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def advance(self, count: int) -> None:
        """Add ``count`` bytes. Transfers call it often, so it is also where a stopped one ends (``StoppedError``)."""
        if self._stopped.is_set():
            raise StoppedError
        with self._lock:
            self.done += count
            if self._report is not None:
                self._report(self.done, self.total)

    def stop(self) -> None:
        """End the transfers that use this."""
        self._stopped.set()


def for_each(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, progress: Progress | None = None
) -> list[Result]:
    """``function`` of each item, on ``workers`` threads; the results in the items' order.

    Raises the first error after the transfers under way have ended, which ``progress`` makes them do soon. Of 100,000
    items only those under way take memory beside their results.
    """
    waiting = list(items)
    if len(waiting) < 2:  # a thread would only cost time
        return [function(item) for item in waiting]
    results: list[Any] = [None] * len(waiting)
    numbered = enumerate(waiting)
    lock, over = threading.Lock(), threading.Event()

    def work() -> None:
        while not over.is_set():
            with lock:
                following = next(numbered, None)
            if following is None:
                return
            results[following[0]] = function(following[1])

    workers = min(workers, len(waiting))
    pool = ThreadPoolExecutor(workers, thread_name_prefix="pippa-store")
    try:
        done, _ = wait([pool.submit(work) for _ in range(workers)], return_when=FIRST_EXCEPTION)
        for future in done:
            if error := future.exception():
                raise error
        return results
    finally:
        over.set()
        if progress is not None:
            progress.stop()
        pool.shutdown(cancel_futures=True)
