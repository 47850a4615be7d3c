"""A few open resources, least recently used closed first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Protocol, TypeVar


class Closable(Protocol):
    """What ends with ``close``."""

    def close(self) -> None:
        """Free it."""
        ...


Key = TypeVar("Key", bound=Hashable)
Opened = TypeVar("Opened", bound=Closable)


class LruCache(OrderedDict[Key, Opened]):
    """At most ``most`` of them; the one unused longest is closed to make room."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def get_or_open(self, key: Key, make: Callable[[], Opened]) -> Opened:
        """What is open under ``key``, or else what ``make`` opens."""
        if key not in self:
            if len(self) >= self.most:
                self.popitem(last=False)[1].close()
            self[key] = make()
        self.move_to_end(key)
        return self[key]
