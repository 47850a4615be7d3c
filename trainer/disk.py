"""Folders on a disk: how much is in them, how much still fits, who may write there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import IO, TypeGuard

from trainer.errors import DiskFullError, PippaError, UsageError

_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG}
_FULL = re.compile(r"No space left on device|Errno 28|Disk quota exceeded|ENOSPC|disk is full", re.IGNORECASE)


def is_disk_full(error: BaseException) -> TypeGuard[OSError]:
    """Whether ``error`` says that there is no space left."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def says_full(text: str) -> bool:
    """Whether the words of a program say that there is no space left."""
    return _FULL.search(text) is not None


def as_disk_full(error: BaseException, where: Path | str) -> DiskFullError | None:
    """``error`` as one with a cure when a full disk is what caused it, however deep; ``where`` if it names no file.

    Libraries wrap the system's error (pyarrow, safetensors), or word it themselves (SQLite).
    """
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        if isinstance(cause, DiskFullError):
            return cause
        if is_disk_full(cause):
            return disk_full(cause.filename or where)
        if says_full(str(cause)):
            return disk_full(where)
        seen.append(cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return None


def disk_full(where: Path | str) -> DiskFullError:
    """No space left at ``where``, and what may be freed."""
    return DiskFullError(
        f"No space left on the disk of {where}.",
        "Free some: `cache/` and finished runs under PIPPA_HOME can go (what the store has is pulled again when "
        "needed), or set PIPPA_HOME to a larger disk, or save less often (--save-steps).",
    )


def require_writable(folder: Path, what: str, cure: str) -> None:
    """Raise ``UsageError`` unless files can be written in ``folder``, or it can be made; leaves nothing.

    Permissions alone don't tell: root may write everywhere, and yet not in /proc or on a read-only file system.
    ``what`` names the setting or flag. Raises ``DiskFullError`` for a full disk.
    """
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    try:
        with tempfile.TemporaryDirectory(dir=existing, prefix=".pippa-"):
            pass
    except OSError as error:
        if full := as_disk_full(error, existing):
            raise full from None
        reason = "it is a file" if existing.is_file() else error.strerror
        raise UsageError(f"{what}: can't write to {folder} ({reason}).", cure) from None


def require_home(home: Path) -> None:
    """Raise ``UsageError`` unless ``home``, the folder ``PIPPA_HOME``, can be written in or made."""
    require_writable(home, "PIPPA_HOME", "Set PIPPA_HOME to a folder that you may write to.")


def unwritable(error: BaseException, home: Path) -> PippaError | None:
    """``error`` as a user's to cure, if it says that a path can't be written or read."""
    if not isinstance(error, OSError) or not isinstance(error.filename, str | bytes):
        return None
    path = Path(os.fsdecode(error.filename))
    # A folder could not be made: a file has its name, or its parent takes none, as /proc. A file that is merely not
    # there is somebody's defect.
    taken = error.errno == errno.EEXIST and path.is_file()
    refused = error.errno == errno.ENOENT and not _takes_folders(path.parent)
    if error.errno not in _FORBIDDEN and not taken and not refused:
        return None
    if path.absolute().is_relative_to(home):
        return UsageError(
            f"{path}: {error.strerror}.", f"PIPPA_HOME is {home}: set it to a folder that you may write to."
        )
    return UsageError(f"{path}: {error.strerror}.", "Name a path that you may use.")


def _takes_folders(folder: Path) -> bool:
    try:
        require_writable(folder, "", "")
    except PippaError:
        return False
    return True


def size_of(folder: Path) -> int:
    """Bytes of the files under ``folder``, while it changes."""
    total = 0
    for parent, _, files in os.walk(folder):
        for file in files:
            with contextlib.suppress(OSError):
                total += (Path(parent) / file).lstat().st_size
    return total


def private_folder(folder: Path) -> None:
    """Make ``folder``, for its owner alone; one that holds something already stays as its owner has made it.

    Raises ``UsageError`` where it can't be made, ``DiskFullError``.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise as_disk_full(error, folder) or UsageError(
            f"The folder {folder} can't be made ({error.strerror}).", "Set PIPPA_HOME to one that you may write to."
        ) from error
    with contextlib.suppress(OSError):  # somebody else's
        if not any(folder.iterdir()):
            folder.chmod(0o700)


def readable(count: float) -> str:
    """``512 B``, ``4.2 MB``, ``5.4 GB``: powers of 1000, as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def require_space(folder: Path, needed: int, what: str, otherwise: str) -> None:
    """Raise ``DiskFullError`` unless the disk of ``folder`` has room for what is still to come of ``needed`` bytes.

    ``otherwise`` is what can be done besides freeing space.
    """
    free = shutil.disk_usage(folder).free
    if (missing := needed - size_of(folder)) > free:
        raise DiskFullError(
            f"{what} needs {readable(missing)} in {folder.parent}; {readable(free)} are free.",
            f"Free some space, or {otherwise}.",
        )


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Generator[IO[str]]:
    """Open a file, created when it is missing, and hold the exclusive lock on it.

    Raises ``BlockingIOError`` without ``wait`` when another one holds it.
    """
    with path.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield file
