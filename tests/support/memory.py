"""Folders in memory, for the data of servers that live as long as the tests: their syncs wait for no disk."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

_MEMORY = Path("/dev/shm")
_ROOM = 4 << 30
"""Bytes that have to be free there: containers have 64 MB, which is too little."""


@contextlib.contextmanager
def in_memory(otherwise: Path) -> Generator[Path]:
    """A new folder in memory, removed afterwards; where this machine has none with room, ``otherwise``."""
    if not _MEMORY.is_dir() or shutil.disk_usage(_MEMORY).free < _ROOM:
        yield otherwise
        return
    with tempfile.TemporaryDirectory(prefix="pippa-tests-", dir=_MEMORY, ignore_cleanup_errors=True) as folder:
        yield Path(folder)
