"""What was found out about files, remembered by their content: hashes, the frames of videos, verdicts of checks.

A file's SHA-256 is kept under its device and inode, and counts while size, time of change and time of modification are
the same: the kernel sets the time of change at every write, and no program can set it back. Everything else is kept
under hashes of what it was found out from, and of pippa's code that found it out. Losing the memory costs time only.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import sqlite3
import threading
import time
from pathlib import Path

from trainer.disk import private_folder
from trainer.errors import DatasetError, PippaError

_SETTLED_SECONDS = 2.0
"""A file that changed a moment ago may change again within one tick of the file system's clock."""
_KEPT_DAYS = 90
_SCHEMA = """
CREATE TABLE IF NOT EXISTS files(file TEXT PRIMARY KEY, state TEXT, sha256 TEXT, used INTEGER);
CREATE TABLE IF NOT EXISTS found(key TEXT PRIMARY KEY, content BLOB, used INTEGER);
"""


class ResultCache:
    """A file that any number of processes share, made when there is something to remember; without one, the memory ends
    with the process.

    May be used from several threads, not across a fork. A file that can't be read or written is done without.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._files: dict[tuple[str, str], str] = {}
        self._database: sqlite3.Connection | None = None

    def knows(self, file: Path) -> bool:
        """Whether the hash of a file is known without reading it."""
        try:
            return self._known(*_identity(file.stat())) is not None
        except OSError:
            return False

    def sha256(self, file: Path) -> str:
        """The SHA-256 of a file. Raises ``DatasetError`` when it is missing or can't be read."""
        try:
            found = file.stat()
            if known := self._known(*_identity(found)):
                return known
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
                after = os.fstat(stream.fileno())
        except FileNotFoundError:
            raise DatasetError(f"{file}: missing.", "Download the dataset again, or remove the episode.") from None
        except OSError as error:
            raise DatasetError(f"{file}: can't be read ({error.strerror}).", "Look after its disk.") from error
        if _identity(after) == _identity(found):
            settled = time.time() - max(after.st_ctime, after.st_mtime) > _SETTLED_SECONDS
            self._keep(*_identity(after), digest, settled=settled)
        return digest

    def get(self, key: str) -> bytes | None:
        """What is kept under ``key``."""
        row = self._run("SELECT content, used FROM found WHERE key = ?", key)
        if row is None:
            return None
        if row[1] != (today := _today()):
            self._run("UPDATE found SET used = ? WHERE key = ?", today, key)
        return bytes(row[0])

    def put(self, key: str, content: bytes) -> None:
        """Keep ``content`` under ``key``."""
        self._run("INSERT OR REPLACE INTO found VALUES (?, ?, ?)", key, content, _today(), write=True)

    def _known(self, which: str, state: str) -> str | None:
        if (which, state) in self._files:
            return self._files[which, state]
        row = self._run("SELECT sha256, used FROM files WHERE file = ? AND state = ?", which, state)
        if row is None:
            return None
        if row[1] != (today := _today()):
            self._run("UPDATE files SET used = ? WHERE file = ?", today, which)
        self._files[which, state] = row[0]
        return row[0]

    def _keep(self, which: str, state: str, digest: str, *, settled: bool) -> None:
        self._files[which, state] = digest
        if settled:
            self._run("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", which, state, digest, _today(), write=True)

    def _run(self, statement: str, *values: object, write: bool = False) -> tuple | None:
        """The first row of the answer; None also where the database fails, which is then left alone."""
        with self._lock:
            if self._database is None and self._file is not None and (write or self._file.exists()):
                self._database = _opened(self._file)
            if self._database is None:
                return None
            try:
                return self._database.execute(statement, values).fetchone()
            except sqlite3.Error:
                self._database = self._file = None
                return None


@functools.cache
def version() -> str:
    """A hash of the code that reads datasets: what another version found out does not count."""
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for file in sorted(folder.rglob("*.py")):
        digest.update(f"{file.relative_to(folder)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _opened(file: Path) -> sqlite3.Connection | None:
    """The database in autocommit, without waiting for the disk: it may be lost, and then is begun again."""
    for _ in range(2):
        try:
            for folder in (file.parent.parent, file.parent):
                private_folder(folder)
            file.touch(mode=0o600)
            database = sqlite3.connect(file, timeout=10, isolation_level=None, check_same_thread=False)
            database.execute("PRAGMA synchronous = OFF")
            database.executescript(_SCHEMA)
            for table in ("files", "found"):
                database.execute(f"DELETE FROM {table} WHERE used < ?", (_today() - _KEPT_DAYS,))  # noqa: S608
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):  # read-only, locked, on a disk without locks
                return None
            with contextlib.suppress(OSError):
                file.unlink()  # damaged
        except (OSError, PippaError):
            return None
        else:
            return database
    return None


def _identity(found: os.stat_result) -> tuple[str, str]:
    """Which file it is, and in which state."""
    return (
        f"{found.st_dev}:{found.st_ino}",
        f"{found.st_size}:{found.st_ctime_ns}:{found.st_mtime_ns}",
    )


def _today() -> int:
    return int(time.time() // 86400)
