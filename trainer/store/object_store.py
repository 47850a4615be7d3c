"""``ObjectStore``: what snapshots, registry, runs and garbage collection need of a store. S3 and a folder have it.

Keys are POSIX paths (``runs/<run id>/spec.json``). A store is strongly consistent: what one process wrote, another one
reads and lists at once, whole or not at all. ``trainer.store.gc_barrier`` relies on it.
"""

from __future__ import annotations

import json
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from trainer.errors import DamagedObjectError, DiskFullError, StoreError
from trainer.store.hashing import Hashed

DOCUMENT_BYTES = 96 << 20
DOCUMENT_VALUES = 6_000_000
"""More than the manifest of a million files has. In memory a value takes a hundred bytes."""


class MissingObjectError(StoreError):
    """There is no object of that key."""


class FullStoreError(DiskFullError, StoreError):
    """The disk of the store is full. Nothing was stored, and the same call works once there is space again."""


@dataclass(frozen=True)
class ObjectInfo:
    """One object of a listing. ``modified`` is the store's time, ``etag`` what S3 says of the content, unquoted."""

    key: str
    size: int
    modified: datetime
    etag: str = ""


class ObjectStore(ABC):
    """Objects by key. Making one touches nothing; safe to use from several threads and processes.

    Every method raises ``StoreError`` when the store can't be reached, refuses or is full.
    """

    @property
    @abstractmethod
    def address(self) -> str:
        """Where it is: an endpoint and bucket, or a folder."""

    @abstractmethod
    def create(self) -> None:
        """Create the bucket or folder unless it exists."""

    @abstractmethod
    def open(self) -> None:
        """Look whether the store answers, and create it where it is pippa's own: the folder of this
        machine, and a bucket of the default name. Raises ``StoreError`` for another bucket that does not exist.
        """

    @abstractmethod
    def info(self, key: str) -> ObjectInfo | None:
        """Size and time of an object; None when there is none."""

    @abstractmethod
    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose key begins with ``prefix``, in the order of their keys."""

    @abstractmethod
    def stream(self, key: str, offset: int = 0, size: int | None = None) -> Iterator[bytes | memoryview]:
        """An object's content from byte ``offset`` on, in pieces, each valid until the next only.

        ``size`` is that of the object where the caller knows it. Raises ``MissingObjectError`` at the first piece.
        """

    @abstractmethod
    def write_bytes(self, key: str, content: bytes, *, if_absent: bool = False) -> bool:
        """Write a small object in one step. With ``if_absent``, return False when another content was there already.

        Of several writers with ``if_absent`` exactly one content wins, whatever their number.
        """

    @abstractmethod
    def put_file(self, path: Path, key: str, *, hashed: Hashed, advance: Callable[[int], None] | None = None) -> None:
        """Store the file ``path``, of which ``hashed`` is known.

        ``advance`` gets the bytes stored since the last call, and may raise to stop. A file that is not what was hashed
        raises ``StoreError`` and leaves no object.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete an object; nothing happens when there is none."""

    @abstractmethod
    def abort_uploads(self, prefix: str, before: datetime) -> int:
        """Free what uploads left that were begun before a time (store's) and never ended; their number."""

    @abstractmethod
    def without_retries(self, answer_seconds: float = 20.0) -> ObjectStore:
        """The same store for requests that must be over soon: no repeats, and an answer within ``answer_seconds``."""

    def exists(self, key: str) -> bool:
        """Whether there is an object ``key``."""
        return self.info(key) is not None

    def size(self, key: str) -> int | None:
        """Size of an object in bytes; None when there is none."""
        info = self.info(key)
        return None if info is None else info.size

    def read_bytes(self, key: str, most: int | None = None) -> bytes | None:
        """An object's content; None when there is none. For small objects.

        Raises ``DamagedObjectError`` for one that is larger than ``most`` bytes.
        """
        content = bytearray()
        try:
            for piece in self.stream(key):
                content += piece
                if most is not None and len(content) > most:
                    raise damaged(key, f"larger than {most >> 20} MiB")
        except MissingObjectError:
            return None
        return bytes(content)

    def read_json(self, key: str) -> Any | None:
        """The document in an object; None when there is none. Raises ``DamagedObjectError`` for what is none."""
        content = self.read_bytes(key, DOCUMENT_BYTES)
        if content is None:
            return None
        if sum(content.count(each) for each in (b",", b"[", b"{")) > DOCUMENT_VALUES:
            raise damaged(key, f"more than {DOCUMENT_VALUES:,} values")
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise damaged(key, "not JSON") from error

    def write_json(self, key: str, document: Any, *, if_absent: bool = False) -> bool:
        """Write a document; ``if_absent`` as for ``write_bytes``."""
        content = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
        return self.write_bytes(key, content, if_absent=if_absent)

    def get_file(self, key: str, path: Path) -> None:
        """Copy an object to ``path``, replacing it in one step. Raises ``MissingObjectError`` when there is none."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            with temporary.open("wb") as file:
                for chunk in self.stream(key):
                    file.write(chunk)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def changed(path: Path) -> StoreError:
    """The error for a file that is not what was hashed."""
    return StoreError(
        f"{path} changed while it was uploaded; nothing was stored.",
        "Push again when nothing writes to the folder any more.",
    )


def damaged(key: str, why: str, hint: str = "") -> DamagedObjectError:
    """The error for an object that is not what was written."""
    cure = hint or "`pippa store check --repair` restores it or takes it out of the way."
    return DamagedObjectError(f"{key} in the object store is damaged: {why}.", cure, key)
