"""A folder in the place of an S3 bucket: nothing that serves S3 is small enough to travel with the drill.

Only the requests of ``ObjectStore`` are replaced; snapshots, hashes, the registry and the uploader are the real code.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from pydantic import SecretStr

from trainer.config.settings import StoreSettings
from trainer.store.client import ObjectInfo, ObjectStore
from trainer.store.failures import MissingObjectError
from trainer.store.hashing import Hashed


class FolderStore(ObjectStore):
    """Objects as files below ``folder``."""

    def __init__(self, folder: Path) -> None:
        nobody = SecretStr("none")
        super().__init__(StoreSettings(endpoint="http://folder", access_key=nobody, secret_key=nobody))
        self._folder = folder
        self._lock = threading.Lock()

    def impatient(self) -> ObjectStore:
        """Itself: a disk answers or fails."""
        return self

    def ensure_bucket(self) -> None:
        """Make the folder."""
        self._folder.mkdir(parents=True, exist_ok=True)

    def info(self, key: str) -> ObjectInfo | None:
        """Size and time of a file."""
        try:
            found = (self._folder / key).stat()
        except FileNotFoundError:
            return None
        return ObjectInfo(key, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Files whose key begins with ``prefix``, in order."""
        files = (file for file in self._folder.rglob("*") if file.is_file() and not file.name.startswith("."))
        keys = sorted(file.relative_to(self._folder).as_posix() for file in files)
        return (info for key in keys if key.startswith(prefix) and (info := self.info(key)))

    def read_bytes(self, key: str) -> bytes | None:
        """A file's content."""
        file = self._folder / key
        return file.read_bytes() if file.is_file() else None

    def write_bytes(self, key: str, content: bytes, *, if_absent: bool = False) -> bool:
        """Write a file in one step."""
        with self._lock:
            if if_absent and (found := self.read_bytes(key)) is not None:
                return found == content
            self._replace(key, lambda temporary: temporary.write_bytes(content))
        return True

    def put_file(self, path: Path, key: str, *, hashed: Hashed, advance: Callable[[int], None] | None = None) -> None:
        """Copy a file."""
        self._replace(key, lambda temporary: shutil.copyfile(path, temporary))
        if advance is not None:
            advance(hashed.size)

    def stream(self, key: str, offset: int = 0, size: int | None = None) -> Iterator[bytes]:  # noqa: ARG002
        """A file's content in pieces."""
        if not (self._folder / key).is_file():
            raise MissingObjectError(key)
        with (self._folder / key).open("rb") as file:
            file.seek(offset)
            while piece := file.read(1 << 22):
                yield piece

    def delete(self, key: str) -> None:
        """Remove a file."""
        (self._folder / key).unlink(missing_ok=True)

    def abort_uploads(self, prefix: str, before: datetime) -> int:  # noqa: ARG002 - as the bucket's
        """A copy leaves nothing behind."""
        return 0

    def _replace(self, key: str, write: Callable[[Path], object]) -> None:
        file = self._folder / key
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}.{threading.get_ident()}")
        write(temporary)
        temporary.replace(file)
