"""Where downloads lie until the object store has them: a killed one is continued, a finished one is removed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path

from trainer.disk import locked, size_of

Log = Callable[[str], None]
Report = Callable[[int, int], None]
"""Gets ``(bytes done, bytes in all)``."""

FORGOTTEN_SECONDS = 7 * 24 * 3600.0
"""A download that was not continued for this long is removed."""
ANOTHER_DISK = "set PIPPA_HOME to a folder of another disk"
"""Besides freeing space, the cure of a disk without room for a download."""


@contextlib.contextmanager
def folder_for(work: Path, name: str, identity: str) -> Generator[Path]:
    """The folder of one download, for this process alone; others that want the same wait for it to end.

    It is removed when the block ends well; after an error or a kill it stays, and the next one to ask for the same
    ``identity`` again finds what was there. ``name`` makes it recognisable.
    """
    work.mkdir(parents=True, exist_ok=True)
    _sweep(work)
    called = f"{name.replace('/', '--')}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    folder = work / called
    with _alone(work / f"{called}.lock"):
        folder.mkdir(exist_ok=True)
        os.utime(folder)
        yield folder
        shutil.rmtree(folder)


@contextlib.contextmanager
def watched(
    folder: Path, title: str, total: int, log: Log, report: Report | None, interval: float = 10.0
) -> Generator[None]:
    """Say how far the download into ``folder`` is, while the block runs: to ``report``, else in lines to ``log``."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.3 if report else interval):
            done = min(size_of(folder), total) if total else size_of(folder)
            if report:
                report(done, total)
            else:
                log(f"{title}: {done / 1e6:,.0f} MB" + (f" of {total / 1e6:,.0f} MB" if total else ""))

    thread = threading.Thread(target=watch, name="download-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def _alone(path: Path, *, wait: bool = True) -> Generator[None]:
    """Hold the exclusive lock ``path``; the file is removed at the end. Raises ``BlockingIOError`` without ``wait``."""
    while True:
        with locked(path, wait=wait) as file:
            # Who held it before may have removed the file while we waited: then another one is locked now.
            if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return


def _sweep(work: Path) -> None:
    """Remove downloads that were begun and forgotten."""
    for folder in work.iterdir():
        if folder.is_dir() and time.time() - folder.stat().st_mtime > FORGOTTEN_SECONDS:
            with contextlib.suppress(BlockingIOError), _alone(folder.with_name(f"{folder.name}.lock"), wait=False):
                shutil.rmtree(folder, ignore_errors=True)
