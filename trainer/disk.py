"""Folders on a disk: how much is in them, how much still fits, who may write there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TypeGuard

from trainer.errors import DiskFullError


def is_disk_full(error: BaseException) -> TypeGuard[OSError]:
    """Whether ``error`` says that there is no space left."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def size_of(folder: Path) -> int:
    """Bytes of the files under ``folder``, while it changes."""
    total = 0
    for parent, _, files in os.walk(folder):
        for file in files:
            with contextlib.suppress(OSError):
                total += (Path(parent) / file).lstat().st_size
    return total


def require_space(folder: Path, needed: int, what: str, otherwise: str) -> None:
    """Raise ``DiskFullError`` unless the disk of ``folder`` has room for what is still to come of ``needed`` bytes.

    ``otherwise`` is what can be done besides freeing space.
    """
    free = shutil.disk_usage(folder).free
    if (missing := needed - size_of(folder)) > free:
        raise DiskFullError(
            f"{what} needs {missing / 1e9:.1f} GB in {folder.parent}; {free / 1e9:.1f} GB are free.",
            f"Free some space, or {otherwise}.",
        )


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[IO[str]]:
    """Open a file, created when it is missing, and hold the exclusive lock on it.

    Raises ``BlockingIOError`` without ``wait`` when another one holds it.
    """
    with path.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield file
