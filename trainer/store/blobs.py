"""Blobs: file contents in the object store, named by their hash and written once. Sent, fetched, and verified.

What a push reuses is worth no more than what lies there, so it is read and hashed, unless the newest snapshot of that
name covers it: that one's push sent it or read it, and nothing has written it since. A run's first checkpoint thus
reads the frozen weights once, and a dataset that grew is not read. A blob that is found damaged, by a push, a pull or
a check, is sent again by the next push of that content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from trainer.config.run_spec import SnapshotRef
from trainer.disk import require_space
from trainer.errors import DamagedObjectError
from trainer.store.damage import damaged_blobs, forget_damaged_blob, note_damaged_blob
from trainer.store.hashing import Hashed
from trainer.store.manifest import FileRecord, blob_key
from trainer.store.object_store import MissingObjectError, ObjectInfo, ObjectStore
from trainer.store.parallel import Progress, for_each
from trainer.store.receiving import ReceivedFile

UPLOADS = 4
"""Files sent at once."""
DOWNLOADS = 8


class Reuse:
    """Which blobs of the store a push may rely on."""

    def __init__(self, store: ObjectStore, vouched: Mapping[str, datetime]) -> None:
        """``vouched`` is when each was sent or read last."""
        self._store = store
        self._noted = damaged_blobs(store)
        self._vouched = vouched

    def is_vouched(self, found: ObjectInfo, sha256: str) -> bool:
        """Whether a blob was sent or read since it was written last."""
        # At the very same time it may have been written before or after: that is read.
        return sha256 not in self._noted and sha256 in self._vouched and found.modified < self._vouched[sha256]

    def is_sound(self, hashed: Hashed, progress: Progress) -> bool:
        """Whether the store has a blob as it should be; reads it where no snapshot covers it."""
        found = self._store.info(blob_key(hashed.sha256))
        # One of another size is damaged; writing it again heals every snapshot that has it.
        if found is None or found.size != hashed.size:
            return False
        if self.is_vouched(found, hashed.sha256):
            return True
        return problem(self._store, hashed.sha256, hashed.size, lambda: progress.advance(0)) is None

    def healed(self, sha256: str) -> None:
        """The store has this blob as it should be."""
        if sha256 in self._noted:
            forget_damaged_blob(self._store, sha256)


def upload(
    store: ObjectStore,
    contents: list[tuple[Path, Hashed]],
    reuse: Reuse,
    progress: Callable[[int, int], None] | None,
) -> int:
    """Send what the store lacks or has damaged; the bytes sent."""
    counter = Progress(sum(hashed.size for _, hashed in contents), progress)
    sent = for_each(lambda each: _upload_one(store, *each, reuse, counter), contents, workers=UPLOADS, progress=counter)
    return sum(sent)


def _upload_one(store: ObjectStore, source: Path, hashed: Hashed, reuse: Reuse, progress: Progress) -> int:
    """Send one file unless the store has it; the bytes sent."""
    sent = 0
    if reuse.is_sound(hashed, progress):
        progress.advance(hashed.size)
    else:
        store.put_file(source, blob_key(hashed.sha256), hashed=hashed, advance=progress.advance)
        sent = hashed.size
    reuse.healed(hashed.sha256)
    return sent


def download(
    store: ObjectStore,
    ref: SnapshotRef,
    files: Sequence[FileRecord],
    folder: Path,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Fetch ``files`` of the snapshot ``ref`` into ``folder``, verified.

    Raises ``DiskFullError``, and ``DamagedObjectError`` for a blob that is missing or damaged.
    """
    size = sum(file.size for file in files)
    require_space(folder, size, str(ref), "pull to another disk")
    for parent in {(folder / file.path).parent for file in files}:
        parent.mkdir(parents=True, exist_ok=True)
    counter = Progress(size, progress)
    for_each(
        lambda file: _download_one(store, ref, file, folder / file.path, counter),
        files,
        workers=DOWNLOADS,
        progress=counter,
    )


def _download_one(store: ObjectStore, ref: SnapshotRef, file: FileRecord, target: Path, progress: Progress) -> None:
    """Fetch one file, continuing what an earlier attempt left; ``target`` is right, or gone, at the end."""
    for _ in range(2):
        with ReceivedFile(target) as received:
            resumed, missing = received.size, False
            progress.advance(resumed)
            try:
                if resumed < file.size:
                    for chunk in store.stream(blob_key(file.sha256), resumed, file.size):
                        received.write(chunk)
                        progress.advance(len(chunk))
                        if received.size > file.size:
                            break
            except MissingObjectError:
                missing = True
            if received.size == file.size and received.sha256() == file.sha256:
                received.sync()
                return
        target.unlink()
        if not resumed:
            break
        # What the earlier attempt left was wrong (a power cut, say): once more from the start.
        progress.advance(-received.size)
    if not missing and problem(store, file.sha256, file.size):  # read once more: the way here may be at fault
        note_damaged_blob(store, file.sha256)
    raise DamagedObjectError(
        f"{file.path} of {ref} is {'missing' if missing else 'damaged'} in the object store.",
        _REPAIR[ref.kind].format(name=ref.name),
        blob_key(file.sha256),
    )


_REPAIR = {
    "dataset": "Bringing the same files again repairs it: `pippa data push FOLDER --name {name}`.",
    "model": "Bringing the same files again repairs it: `pippa models add ./FOLDER --name {name}`.",
    "checkpoint": "`pippa checkpoints verify {name}` lists all damage; `pippa checkpoints pull {name} FOLDER "
    "--fallback` takes the newest good one.",
}


def problem(store: ObjectStore, sha256: str, size: int, between: Callable[[], None] = lambda: None) -> str | None:
    """What is wrong with a blob, or None. Reads and hashes it; ``between`` is called now and then, and may raise."""
    hasher, found = hashlib.sha256(), store.size(blob_key(sha256))
    if found is None:
        return f"blob {sha256[:12]} is missing"
    if found != size:
        return f"{found} bytes instead of {size}"
    try:
        for chunk in store.stream(blob_key(sha256), size=size):
            hasher.update(chunk)
            between()
    except MissingObjectError:
        return f"blob {sha256[:12]} is missing"
    if hasher.hexdigest() != sha256:
        return f"the content has another hash than {sha256[:12]}"
    return None
