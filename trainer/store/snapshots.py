"""Snapshots: immutable folders in the object store. Datasets, base models and checkpoints are all snapshots.

Contents lie in content-addressed blobs, written once; the manifest is written last, so a reader never sees half of one.

What a push reuses is worth no more than what lies there, so it is read and hashed, unless the newest snapshot of that
name covers it: that one's push sent it or read it, and nothing has written it since. A run's first checkpoint thus
reads the frozen weights once, and a dataset that grew is not read. A blob that is found damaged, by a push, a pull or
``verify``, is sent again by the next push of that content.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from trainer.config.run_spec import SnapshotKind, SnapshotRef
from trainer.disk import is_disk_full, locked, require_space
from trainer.errors import DamagedObjectError, DiskFullError, StoreError, UsageError
from trainer.store import tree
from trainer.store.damage import damaged_blobs, forget_damaged_blob, note_damaged_blob, read_good
from trainer.store.gc_barrier import relying_on
from trainer.store.hashing import Hashed, hash_file
from trainer.store.manifest import (
    SNAPSHOTS,
    FileRecord,
    Manifest,
    blob_key,
    check_name,
    manifest_key,
    parse_manifest_key,
    read_manifest,
)
from trainer.store.object_store import MissingObjectError, ObjectInfo, ObjectStore
from trainer.store.parallel import LOOKUPS, Progress, for_each
from trainer.store.receiving import ReceivedFile

UPLOADS = 4
"""Files sent at once."""
DOWNLOADS = 8
_ATTEMPTS = 3


@dataclass(frozen=True)
class PushResult:
    """What a push did."""

    ref: SnapshotRef
    bytes_uploaded: int
    """Without what the store had already."""
    bytes_total: int
    files: int


@dataclass(frozen=True)
class SnapshotInfo:
    """One line of a list of snapshots."""

    ref: SnapshotRef
    created: datetime
    origin: dict[str, str]
    files: int
    bytes_total: int


def push(
    store: ObjectStore,
    folder: Path,
    kind: SnapshotKind,
    name: str,
    *,
    origin: dict[str, str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    ignore: Callable[[str], bool] | None = None,
    links_into: Path | None = None,
    hash_file: Callable[[Path], Hashed] = hash_file,
    like: str | None = None,
) -> PushResult:
    """Store ``folder`` as a snapshot; contents the store has already are verified and not sent again.

    ``progress`` gets ``(bytes done, bytes in all)`` from several threads; ``ignore`` says of each POSIX path, folders
    included, whether to leave it out; links may lead into ``links_into`` as well; ``hash_file`` may remember
    (``HashCache``); the newest snapshot called ``like`` covers what is reused, too. Raises ``UsageError`` for
    files that can't be kept or a bad name, ``StoreError`` when the store fails or a file changes meanwhile. However it
    ends, no broken snapshot is seen.
    """
    check_name(name)
    local = tree.scan(folder, ignore, links_into)
    hashes = for_each(lambda file: hash_file(file.source), local, workers=UPLOADS)
    files = list(zip(local, hashes, strict=True))
    records = [FileRecord(path=file.path, size=hashed.size, sha256=hashed.sha256) for file, hashed in files]
    manifest = Manifest.of(kind, name, records, origin or {})
    contents = {hashed.sha256: (file.source, hashed) for file, hashed in files}
    key = manifest_key(manifest.ref)
    for _ in range(_ATTEMPTS):
        with relying_on(store, {key, *manifest.blob_keys()}) as intent:
            sent = _upload_all(store, list(contents.values()), _Reuse(store, kind, {name, like or name}), progress)
            if intent.intact():
                # Written also when it exists, so that garbage collection sees it as new, and `latest` means this one.
                store.write_json(key, manifest.model_dump(mode="json"))
                return PushResult(manifest.ref, sent, manifest.size, len(records))
    raise StoreError(f"Pushing {folder} took too long: the store forgot what it relied on.", "Push it again.")


def pull(
    store: ObjectStore, ref: SnapshotRef, folder: Path, *, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Download a snapshot; ``folder`` appears complete and verified, or not at all.

    What was pulled is written in ``.<folder>.snapshot`` beside it, and pulling again returns at once; an interrupted
    pull continues where it stopped; concurrent pulls wait for one another. Raises ``UsageError`` when ``folder`` holds
    something else, ``DiskFullError``, and ``StoreError`` when a blob is missing or damaged.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(f".{folder.name}.snapshot")) as marker:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            _check_reusable(marker, ref, folder)
            return folder
        manifest = read_manifest(store, ref)
        partial = _partial(folder, ref)
        with _disk_full_explained(folder):
            partial.mkdir(exist_ok=True)
            _download_all(store, ref, manifest.files, partial, progress)
            # The marker first: a kill in between leaves a marker without a folder, which is pulled again.
            marker.seek(0)
            marker.truncate()
            marker.write(manifest.model_dump_json())
            marker.flush()
            partial.replace(folder)
    return folder


def fetch(
    store: ObjectStore,
    ref: SnapshotRef,
    folder: Path,
    wanted: Callable[[str], bool],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Download the files of a snapshot whose paths are ``wanted`` into the existing ``folder``, verified; their paths.

    Raises ``DiskFullError``, and ``StoreError`` when a blob is missing or damaged.
    """
    files = [file for file in read_manifest(store, ref).files if wanted(file.path)]
    with _disk_full_explained(folder):
        _download_all(store, ref, files, folder, progress)
    return [file.path for file in files]


def discard_partial(ref: SnapshotRef, folder: Path) -> None:
    """Remove what an interrupted pull of ``ref`` to ``folder`` left, which another pull would continue from."""
    shutil.rmtree(_partial(folder.absolute(), ref), ignore_errors=True)


def _partial(folder: Path, ref: SnapshotRef) -> Path:
    return folder.with_name(f".{folder.name}.{ref.digest[:12]}.partial")


def verify(store: ObjectStore, ref: SnapshotRef) -> list[str]:
    """What is wrong with a snapshot; empty when it is intact. Reads and hashes every blob.

    The next push of what is damaged sends it again.
    """
    try:
        manifest = read_manifest(store, ref)
    except StoreError as error:
        if store.exists(manifest_key(ref)):
            return [error.message]
        return [f"the manifest of {ref} is missing"]

    def examine(file: FileRecord) -> str | None:
        problem = blob_problem(store, file.sha256, file.size)
        if problem:
            note_damaged_blob(store, file.sha256)
        return problem and f"{file.path}: {problem}"

    found = for_each(examine, manifest.files, workers=DOWNLOADS)
    return [problem for problem in found if problem]


def unsound_blobs(store: ObjectStore, manifest: Manifest) -> list[str]:
    """Paths whose blob the store lacks, has in another size, or has damaged.

    Asks for sizes, and reads what was written after the manifest: its push verified the rest.
    """
    pushed = store.info(manifest_key(manifest.ref))
    noted = damaged_blobs(store)
    sizes = {file.sha256: file.size for file in manifest.files}

    def is_sound(sha256: str) -> bool:
        found = store.info(blob_key(sha256))
        if found is None or found.size != sizes[sha256]:
            return False
        if pushed is not None and found.modified <= pushed.modified and sha256 not in noted:
            return True
        return blob_problem(store, sha256, sizes[sha256]) is None

    sound = dict(zip(sizes, for_each(is_sound, sizes, workers=LOOKUPS), strict=True))
    return [file.path for file in manifest.files if not sound[file.sha256]]


def latest(store: ObjectStore, kind: SnapshotKind, name: str) -> SnapshotRef | None:
    """The snapshot of that name that was pushed last; None when there is none."""
    newest = _newest(store, kind, name)
    return newest and newest[0]


def _newest(store: ObjectStore, kind: SnapshotKind, name: str) -> tuple[SnapshotRef, datetime] | None:
    """The snapshot of that name that was pushed last, and when."""
    check_name(name)
    times: dict[SnapshotRef, datetime] = {}
    for found in store.list(f"{SNAPSHOTS}{kind}/{name}/"):
        ref = parse_manifest_key(found.key)
        if ref is not None and ref.name == name:
            times[ref] = found.modified
    last = max(times.values(), default=None)
    newest = [ref for ref, time in times.items() if time == last]
    if len(newest) > 1:
        # S3 servers give times in seconds; within one, the pushing machine's own clock decides.
        read = read_good(lambda ref: read_manifest(store, ref), newest, None)
        newest = [each.ref for each in sorted(read, key=lambda each: each.created)] or newest
    return (newest[-1], times[newest[-1]]) if newest else None


def list_snapshots(
    store: ObjectStore, kind: SnapshotKind | None = None, damage: list[DamagedObjectError] | None = None
) -> list[SnapshotInfo]:
    """All snapshots (of one kind), by kind and name, the oldest first.

    Those with a damaged manifest are left out, and their errors put into ``damage``.
    """
    refs = [parse_manifest_key(found.key) for found in store.list(f"{SNAPSHOTS}{kind}/" if kind else SNAPSHOTS)]

    def read(ref: SnapshotRef) -> Manifest | None:
        try:
            return read_manifest(store, ref)
        except MissingObjectError:  # collected since
            return None

    manifests = read_good(read, [ref for ref in refs if ref], damage)
    infos = [SnapshotInfo(m.ref, m.created, m.origin, len(m.files), m.size) for m in manifests]
    return sorted(infos, key=lambda info: (info.ref.kind, info.ref.name, info.created))


def _upload_all(
    store: ObjectStore,
    contents: list[tuple[Path, Hashed]],
    reuse: _Reuse,
    progress: Callable[[int, int], None] | None,
) -> int:
    """Send what the store lacks or has damaged; the bytes sent."""
    counter = Progress(sum(hashed.size for _, hashed in contents), progress)
    sent = for_each(lambda each: _upload(store, *each, reuse, counter), contents, workers=UPLOADS, progress=counter)
    return sum(sent)


class _Reuse:
    """Which blobs of the store a push may rely on."""

    def __init__(self, store: ObjectStore, kind: SnapshotKind, names: set[str]) -> None:
        self._store = store
        self._noted = damaged_blobs(store)
        self._vouched: dict[str, datetime] = {}
        for name in names:
            if newest := _newest(store, kind, name):
                with contextlib.suppress(DamagedObjectError, MissingObjectError):
                    for file in read_manifest(store, newest[0]).files:
                        self._vouched[file.sha256] = newest[1]

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
        return blob_problem(self._store, hashed.sha256, hashed.size, lambda: progress.advance(0)) is None

    def healed(self, sha256: str) -> None:
        """The store has this blob as it should be."""
        if sha256 in self._noted:
            forget_damaged_blob(self._store, sha256)


def _upload(store: ObjectStore, source: Path, hashed: Hashed, reuse: _Reuse, progress: Progress) -> int:
    """Send one file unless the store has it; the bytes sent."""
    sent = 0
    if reuse.is_sound(hashed, progress):
        progress.advance(hashed.size)
    else:
        store.put_file(source, blob_key(hashed.sha256), hashed=hashed, advance=progress.advance)
        sent = hashed.size
    reuse.healed(hashed.sha256)
    return sent


def _download_all(
    store: ObjectStore,
    ref: SnapshotRef,
    files: Sequence[FileRecord],
    folder: Path,
    progress: Callable[[int, int], None] | None,
) -> None:
    size = sum(file.size for file in files)
    require_space(folder, size, str(ref), "pull to another disk")
    for parent in {(folder / file.path).parent for file in files}:
        parent.mkdir(parents=True, exist_ok=True)
    counter = Progress(size, progress)
    for_each(
        lambda file: _download(store, ref, file, folder / file.path, counter),
        files,
        workers=DOWNLOADS,
        progress=counter,
    )


def _download(store: ObjectStore, ref: SnapshotRef, file: FileRecord, target: Path, progress: Progress) -> None:
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
    if not missing and blob_problem(store, file.sha256, file.size):  # read once more: the way here may be at fault
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


def blob_problem(store: ObjectStore, sha256: str, size: int, between: Callable[[], None] = lambda: None) -> str | None:
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


def _check_reusable(marker: IO[str], ref: SnapshotRef, folder: Path) -> None:
    """Raise ``UsageError`` unless ``folder`` is what was pulled of ``ref``."""
    marker.seek(0)
    try:
        pulled = Manifest.model_validate_json(marker.read())
    except ValidationError:
        raise UsageError(
            f"{folder} exists and was not pulled from the object store.", "Pull into another folder, or delete it."
        ) from None
    if pulled.digest != ref.digest:
        raise UsageError(f"{folder} holds {pulled.ref}, not {ref}.", "Pull into another folder, or delete it.")
    if changed := tree.differences(pulled, folder):
        raise UsageError(
            f"{folder} was changed since it was pulled: {', '.join(changed[:3])}{' …' if len(changed) > 3 else ''}.",
            "Pull into another folder, or delete it.",
        )


@contextlib.contextmanager
def _disk_full_explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise DiskFullError(
                f"The disk of {folder} is full.", "Free some space and pull again; it continues where it stopped."
            ) from error
        raise
