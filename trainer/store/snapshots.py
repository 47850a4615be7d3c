"""Snapshots: immutable folders in the object store. Datasets, base models and checkpoints are all snapshots.

Contents lie in content-addressed blobs, written once (``trainer.store.blobs``); the manifest is written last, so a
reader never sees half of one.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from trainer.config.run_spec import SnapshotKind, SnapshotRef
from trainer.disk import is_disk_full, locked
from trainer.errors import DamagedObjectError, DiskFullError, StoreError, UsageError
from trainer.store import blobs, tree
from trainer.store.damage import damaged_blobs, note_damaged_blob, read_good
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
from trainer.store.object_store import MissingObjectError, ObjectStore
from trainer.store.parallel import LOOKUPS, for_each

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
    hashes = for_each(lambda file: hash_file(file.source), local, workers=blobs.UPLOADS)
    files = list(zip(local, hashes, strict=True))
    records = [FileRecord(path=file.path, size=hashed.size, sha256=hashed.sha256) for file, hashed in files]
    manifest = Manifest.of(kind, name, records, origin or {})
    contents = {hashed.sha256: (file.source, hashed) for file, hashed in files}
    key = manifest_key(manifest.ref)
    for _ in range(_ATTEMPTS):
        with relying_on(store, {key, *manifest.blob_keys()}) as intent:
            reuse = blobs.Reuse(store, _vouched(store, kind, {name, like or name}))
            sent = blobs.upload(store, list(contents.values()), reuse, progress)
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
            blobs.download(store, ref, manifest.files, partial, progress)
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
        blobs.download(store, ref, files, folder, progress)
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
        problem = blobs.problem(store, file.sha256, file.size)
        if problem:
            note_damaged_blob(store, file.sha256)
        return problem and f"{file.path}: {problem}"

    found = for_each(examine, manifest.files, workers=blobs.DOWNLOADS)
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
        return blobs.problem(store, sha256, sizes[sha256]) is None

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


def _vouched(store: ObjectStore, kind: SnapshotKind, names: Iterable[str]) -> dict[str, datetime]:
    """The blobs that the newest snapshots of these names cover, and since when."""
    vouched: dict[str, datetime] = {}
    for name in names:
        if newest := _newest(store, kind, name):
            ref, pushed = newest
            with contextlib.suppress(DamagedObjectError, MissingObjectError):
                vouched |= dict.fromkeys((file.sha256 for file in read_manifest(store, ref).files), pushed)
    return vouched


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
def _disk_full_explained(folder: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise DiskFullError(
                f"The disk of {folder} is full.", "Free some space and pull again; it continues where it stopped."
            ) from error
        raise
