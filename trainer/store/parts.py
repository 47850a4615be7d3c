"""Large objects in parts, several at once, in a bounded amount of memory."""

from __future__ import annotations

import contextlib
import os
import queue
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor

from trainer.store.hashing import PART_BYTES

PARTS_PER_FILE = 8
"""Parts of one file under way at once."""
BUFFERS = 16
"""Parts of all files in memory at once."""


class Buffers:
    """The memory in which parts wait, used again and again: fresh memory is slow to get."""

    def __init__(self) -> None:
        self._free: queue.LifoQueue[bytearray] = queue.LifoQueue()
        for _ in range(BUFFERS):
            self._free.put(bytearray())

    def take(self, size: int, *, wait: bool = True) -> memoryview | None:
        """Room for ``size`` bytes; waits until another one is given back, or returns None."""
        try:
            buffer = self._free.get(block=wait)
        except queue.Empty:
            return None
        if len(buffer) < size:
            buffer = bytearray(size)
        return memoryview(buffer)[:size]

    def give(self, taken: memoryview) -> None:
        """Give back what ``take`` gave."""
        buffer = taken.obj
        assert isinstance(buffer, bytearray)  # noqa: S101
        # Parts that are larger, of an enormous file, are not kept.
        self._free.put(buffer if len(buffer) <= PART_BYTES else bytearray())

    @contextlib.contextmanager
    def read(self, descriptor: int, offset: int, size: int) -> Generator[memoryview]:
        """``size`` bytes of a file, fewer at its end."""
        buffer = self.take(size)
        assert buffer is not None  # noqa: S101
        try:
            done = 0
            while done < size and (count := os.preadv(descriptor, [buffer[done:]], offset + done)):
                done += count
            yield buffer[:done]
        finally:
            self.give(buffer)


def in_order(buffers: Buffers, fetch: Callable[[int, memoryview], int], offset: int, end: int) -> Iterator[memoryview]:
    """Bytes ``offset`` to ``end`` in order, fetched in several parts at once; each piece is valid until the next.

    ``fetch(offset, buffer)`` fills a buffer and returns how much there was; less than requested ends it.
    """
    with ThreadPoolExecutor(PARTS_PER_FILE, thread_name_prefix="pippa-part") as pool:
        window: deque = deque()
        try:
            while True:
                # Waits for memory only while it holds none itself: two that wait for each other would wait forever.
                while offset < end and len(window) < PARTS_PER_FILE:
                    size = min(PART_BYTES, end - offset)
                    buffer = buffers.take(size, wait=not window)
                    if buffer is None:
                        break
                    window.append((buffer, pool.submit(fetch, offset, buffer)))
                    offset += size
                if not window:
                    return
                buffer, fetched = window[0]
                count = fetched.result()
                yield buffer[:count]
                buffers.give(window.popleft()[0])
                if count < len(buffer):
                    return
        finally:
            for buffer, fetched in window:
                if not fetched.cancel():
                    fetched.exception()
                buffers.give(buffer)
