"""An object store in memory, for tests that need thousands of requests; the real servers prove the rest."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from trainer.store.hashing import Hashed
from trainer.store.object_store import MissingObjectError, ObjectInfo, ObjectStore


class FakeStore(ObjectStore):
    """The requests of ``ObjectStore`` on a dictionary; everything above them is the real code.

    With ``jitter``, requests of several threads mix in random order.
    """

    def __init__(self, jitter: float = 0.0) -> None:
        self.objects: dict[str, tuple[bytes, datetime]] = {}
        self._lock = threading.Lock()
        self._jitter = jitter

    def _request(self) -> None:
        if self._jitter:
            time.sleep(random.uniform(0, self._jitter))

    @property
    def address(self) -> str:
        return "memory"

    def create(self) -> None:
        pass

    def open(self) -> None:
        pass

    def without_retries(self, answer_seconds: float = 20.0) -> ObjectStore:
        return self

    def info(self, key: str) -> ObjectInfo | None:
        self._request()
        found = self.objects.get(key)
        return found and ObjectInfo(key, len(found[0]), found[1])

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._request()
        with self._lock:
            found = sorted((key, value) for key, value in self.objects.items() if key.startswith(prefix))
        return iter([ObjectInfo(key, len(content), modified) for key, (content, modified) in found])

    def read_bytes(self, key: str, most: int | None = None) -> bytes | None:
        self._request()
        found = self.objects.get(key)
        return found and found[0]

    def write_bytes(self, key: str, content: bytes, *, if_absent: bool = False) -> bool:
        self._request()
        with self._lock:
            if if_absent and key in self.objects:
                return self.objects[key][0] == content
            self.objects[key] = (content, datetime.now(UTC))
        return True

    def put_file(self, path: Path, key: str, *, hashed: Hashed, advance: Callable[[int], None] | None = None) -> None:
        self.write_bytes(key, path.read_bytes())
        if advance is not None:
            advance(hashed.size)

    def stream(self, key: str, offset: int = 0, size: int | None = None) -> Iterator[bytes]:
        content = self.read_bytes(key)
        if content is None:
            raise MissingObjectError(key)
        yield content[offset:]

    def delete(self, key: str) -> None:
        self._request()
        with self._lock:
            self.objects.pop(key, None)

    def abort_uploads(self, prefix: str, before: datetime) -> int:
        return 0
