"""A file that arrives: hashed, written and pushed to the disk at the same time."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

_READ_BYTES = 1 << 20
_WRITE_BYTES = 1 << 19
"""Written at once. For more, Linux looks for large stretches of free memory, which can take ten times as long."""
_SYNC_BYTES = 64 << 20
"""Pushed to the disk while the next ones arrive; else all of them would be waited for at the end."""

_sync_data = getattr(os, "fdatasync", os.fsync)  # macOS has none


class ReceivedFile:
    """Continues after what an earlier attempt left in ``path``, which is hashed first."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+b", buffering=0)
        self._hasher = hashlib.sha256()
        self._beside = ThreadPoolExecutor(2, "pippa-receive")
        self._syncing: Future[None] | None = None
        self._unsynced = 0
        self.size = 0
        """Bytes there are."""
        self._file.seek(0)
        while chunk := self._file.read(_READ_BYTES):
            self._hasher.update(chunk)
            self.size += len(chunk)

    def __enter__(self) -> ReceivedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._beside.shutdown()
        self._file.close()

    def write(self, chunk: bytes | memoryview) -> None:
        """Append ``chunk``; it may be overwritten when this returns."""
        # Hashing, writing and syncing release Python's lock: they run at once.
        hashing = self._beside.submit(self._hasher.update, chunk)
        for start in range(0, len(chunk), _WRITE_BYTES):
            piece = memoryview(chunk)[start : start + _WRITE_BYTES]
            while piece:
                piece = piece[self._file.write(piece) :]
        hashing.result()
        self.size += len(chunk)
        self._unsynced += len(chunk)
        if self._unsynced >= _SYNC_BYTES and (self._syncing is None or self._syncing.done()):
            self._wait_synced()
            self._syncing = self._beside.submit(_sync_data, self._file.fileno())
            self._unsynced = 0

    def sha256(self) -> str:
        """Of all there is."""
        return self._hasher.hexdigest()

    def sync(self) -> None:
        """Wait until all of it is on the disk."""
        self._wait_synced()
        os.fsync(self._file.fileno())

    def _wait_synced(self) -> None:
        if self._syncing is not None:
            self._syncing.result()
