"""``FolderStore``: objects as files of one folder, for a machine without an S3 server.

A key is a path under the folder. An object appears whole and on the disk: it is written to a file in ``.tmp/``, synced,
then renamed to its place, or hard-linked, which fails where another writer was first. What happens when:

- *A writer is killed*: its file in ``.tmp/`` is left. It held a lock on it, so the next to open the store knows that
  its writer is gone and removes it.
- *A listing while an object is replaced*: POSIX leaves open whether a directory that is being read shows a name that is
  renamed over at that moment, and btrfs may not. Garbage collection would delete what the missed object names, so
  replacing and reading a directory exclude each other by ``.tmp/lock``.
- *Two processes write one key*: each renames a whole file; the last one wins.
- *The folder goes away*, as that of a disk that is unmounted does: its users get an error, and can continue when it is
  back. A second one in its place would hide what is registered there.
- *The disk is full*: the file in ``.tmp/`` goes, the caller gets ``FullStoreError``, and the next call starts over.

One machine's processes share a folder, containers too. Over a network file system other machines' directories and locks
lag behind; several machines want an S3 server.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import stat
import tempfile
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from trainer.disk import is_disk_full
from trainer.errors import StoreError, UsageError
from trainer.store.hashing import Hashed
from trainer.store.object_store import FullStoreError, MissingObjectError, ObjectInfo, ObjectStore, changed
from trainer.store.receiving import ReceivedFile

TEMPORARY = ".tmp"
_CHUNK_BYTES = 4 << 20
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


class FolderStore(ObjectStore):
    """The objects under ``root``, which only its owner may enter. Raises ``UsageError`` for a key that would leave it.

    Links are not followed and are no objects: a folder that somebody handed over can't lead elsewhere.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._temporary_folder = self.root / TEMPORARY
        self._is_made = False

    def __repr__(self) -> str:
        return f"FolderStore({str(self.root)!r})"

    @property
    def address(self) -> str:
        return str(self.root)

    def create(self) -> None:
        with self._explained("create the folder"):
            self._is_made = False
            self._make_temporary_folder()
            self._remove_abandoned()

    def open(self) -> None:
        self.create()

    def without_retries(self, answer_seconds: float = 20.0) -> FolderStore:
        return self

    def info(self, key: str) -> ObjectInfo | None:
        with self._explained("look up", key):
            try:
                found = self._path(key).lstat()
            except (FileNotFoundError, NotADirectoryError):
                return None
            return _info(key, found) if stat.S_ISREG(found.st_mode) else None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        folder, slash, start = prefix.rpartition("/")
        with self._explained("list", prefix):
            if slash:
                self._path(f"{folder}/-")
            yield from self._walk(folder + slash, start)

    def stream(self, key: str, offset: int = 0, size: int | None = None) -> Iterator[memoryview]:
        with self._explained("read", key), self._opened(key) as file:
            file.seek(offset)
            buffer = memoryview(bytearray(min(_CHUNK_BYTES, max(os.fstat(file.fileno()).st_size - offset, 1))))
            while count := file.readinto(buffer):
                yield buffer[:count]

    def write_bytes(self, key: str, content: bytes, *, if_absent: bool = False) -> bool:
        with self._explained("write", key):
            path = self._path(key)
            with self._temporary() as (temporary, file):
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                if self._place(temporary, path, replace=not if_absent):
                    return True
            return self.read_bytes(key) == content

    def put_file(self, path: Path, key: str, *, hashed: Hashed, advance: Callable[[int], None] | None = None) -> None:
        buffer = memoryview(bytearray(min(_CHUNK_BYTES, hashed.size + 1)))
        with path.open("rb", buffering=0) as source, self._explained("upload", key):
            target = self._path(key)
            with self._temporary() as (temporary, _), ReceivedFile(temporary) as copy:
                while copy.size <= hashed.size and (count := source.readinto(buffer)):
                    copy.write(buffer[:count])
                    if advance is not None:
                        advance(count)
                if copy.size != hashed.size or copy.sha256() != hashed.sha256:
                    raise changed(path)
                copy.sync()
                self._place(temporary, target, replace=True)

    def delete(self, key: str) -> None:
        # Not synced: file systems keep the order of deletions, and what an early power cut brings back is garbage.
        if self.info(key) is not None:
            with self._explained("delete", key), contextlib.suppress(FileNotFoundError):
                self._path(key).unlink()

    def abort_uploads(self, prefix: str, before: datetime) -> int:
        with self._explained("remove unfinished uploads"):
            return self._remove_abandoned()

    def _path(self, key: str) -> Path:
        """Where the object ``key`` lies. Raises ``UsageError`` where that is outside, ``StoreError`` behind a link."""
        parts = key.split("/")
        if "\0" in key or any(part in ("", ".", "..") for part in parts) or parts[0] == TEMPORARY:
            raise UsageError(f"{key!r} can't be the key of an object.", "It must be a relative path without '..'.")
        folder = self.root
        for part in parts[:-1]:
            folder = folder / part
            if folder.is_symlink():
                raise StoreError(
                    f"{folder} in the object store is a link, which is not followed.",
                    f"Replace it by what it links to; the whole store may be a link ({self.root}).",
                )
        return folder / parts[-1]

    def _opened(self, key: str) -> io.FileIO:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # O_NONBLOCK: a pipe would wait
        try:
            descriptor = os.open(self._path(key), flags)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                if not self.root.is_dir():
                    raise self.gone(f"read {key}") from None
                raise self._missing(key) from None
            raise
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise self._missing(key)
        return io.FileIO(descriptor)

    def _missing(self, key: str) -> MissingObjectError:
        return MissingObjectError(f"The object store {self.root} lacks {key}.")

    def _walk(self, prefix: str, start: str = "") -> Iterator[ObjectInfo]:
        """Objects under the folder ``prefix`` (empty, or ending in "/") whose path there begins with ``start``."""
        if not (self.root / prefix).is_dir():
            return
        with self._locked(fcntl.LOCK_EX), os.scandir(self.root / prefix) as entries:
            found = [entry for entry in entries if entry.name.startswith(start)]
        # In the order of whole keys "a-b" comes before "a/b".
        names = {f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name: entry for entry in found}
        for name, entry in sorted(names.items()):
            if name.endswith("/"):
                if prefix or entry.name != TEMPORARY:
                    yield from self._walk(prefix + name)
                continue
            with contextlib.suppress(FileNotFoundError):  # deleted since
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    yield _info(prefix + name, status)

    @contextlib.contextmanager
    def _temporary(self) -> Generator[tuple[Path, IO[bytes]]]:
        """A new file, locked as long as it is written to, and gone at the end unless it was renamed."""
        self._make_temporary_folder()
        while True:
            descriptor, name = tempfile.mkstemp(dir=self._temporary_folder)  # mode 0600
            file = os.fdopen(descriptor, "wb")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                break
            file.close()  # taken for abandoned before it was locked
        try:
            yield Path(name), file
        finally:
            Path(name).unlink(missing_ok=True)
            # What a full disk left in its buffer is not written once more.
            with contextlib.suppress(OSError):
                file.close()

    def _place(self, temporary: Path, path: Path, *, replace: bool) -> bool:
        """Give a complete file its name; False when another one has it, which only ``replace`` takes from it."""
        _make_folder(path.parent, self.root)
        try:
            if replace:
                with self._locked(fcntl.LOCK_SH):
                    temporary.replace(path)
            else:
                os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if not replace and error.errno in _NO_LINKS:
                raise StoreError(
                    f"The file system of {self.root} has no hard links, which an object store needs.",
                    "Set PIPPA_HOME to a folder of another disk (ext4, XFS, Btrfs, APFS …).",
                ) from None
            raise
        _sync(path.parent)
        return True

    @contextlib.contextmanager
    def _locked(self, mode: int) -> Generator[None]:
        """Exclude replacing (shared) and reading a directory (exclusive) from each other, for microseconds."""
        self._make_temporary_folder()
        lock = os.open(self._temporary_folder / "lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, mode)
            yield
        finally:
            os.close(lock)

    def _make_temporary_folder(self) -> None:
        """Once: a folder that goes away later is not made a second time."""
        if not self._is_made:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._temporary_folder.mkdir(mode=0o700, exist_ok=True)
            self._is_made = True

    def _remove_abandoned(self) -> int:
        """Remove the files of writers that were killed; their number."""
        removed = 0
        for path in self._temporary_folder.iterdir():
            if path.name == "lock":
                continue
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                path.unlink(missing_ok=True)
                removed += 1
        return removed

    def gone(self, what: str) -> StoreError:
        """The error of a folder that was there and is not any more; ``what`` could not be done."""
        return StoreError(
            f"The object store {self.root} is not there; could not {what}.",
            "Its folder was moved or deleted, or its disk is not mounted: bring it back.",
        )

    @contextlib.contextmanager
    def _explained(self, action: str, key: str = "") -> Generator[None]:
        """Raise ``StoreError`` with its cure for what the file system raises in the block."""
        try:
            yield
        except OSError as error:
            what = f"{action} {key}".strip()
            detail = error.strerror or str(error)
            if is_disk_full(error):
                raise FullStoreError(
                    f"The disk of the object store {self.root} is full; could not {what}.",
                    "Free other space on that disk first: garbage collection writes a note before it deletes. Then "
                    "`pippa checkpoints gc --keep 2 --delete` leaves each run its newest two checkpoints.",
                ) from error
            if error.errno in _DENIED:
                raise StoreError(
                    f"{error.filename or self.root}: {detail}; could not {what} in the object store.",
                    f"`ls -ld {self.root}` shows whose it is. Make it yours (`chown -R`), or set PIPPA_HOME to a "
                    "folder that you may write to.",
                ) from error
            if isinstance(error, FileNotFoundError) and not self._temporary_folder.is_dir():
                raise self.gone(what) from error
            raise StoreError(
                f"The object store {self.root}: could not {what} ({detail}).", "Is its disk all right, and the name?"
            ) from error


def _info(key: str, status: os.stat_result) -> ObjectInfo:
    return ObjectInfo(key, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))


def _make_folder(folder: Path, root: Path) -> None:
    """Make a folder and those above it, so that they are there after a power cut too.

    Not ``root``: where it went away since the file was written, a second store would begin.
    """
    if folder.is_dir():
        return
    if folder == root:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(root))
    _make_folder(folder.parent, root)
    folder.mkdir(mode=0o700, exist_ok=True)
    _sync(folder.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems sync directories themselves
            raise
    finally:
        os.close(descriptor)
