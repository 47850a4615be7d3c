"""Snapshots: immutable folders in the object store. Datasets, base models and checkpoints are all snapshots.

Contents lie in content-addressed blobs, written once; the manifest is written last, so nobody ever sees half of one.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from trainer.config.run_spec import SnapshotKind, SnapshotRef
from trainer.disk import is_disk_full, locked, require_space
from trainer.errors import DiskFullError, StoreError, UsageError
from trainer.store import tree
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
from trainer.store.parallel import Progress, for_each
from trainer.store.receiving import ReceivedFile

UPLOADS = 4
"""Files sent at once."""
DOWNLOADS = 8
LOOKUPS = 16
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
) -> PushResult:
    """Store ``folder`` as a snapshot; contents the store has already are not sent again.

    ``progress`` gets ``(bytes done, bytes in all)`` from several threads; ``ignore`` says of each POSIX path, folders
    included, whether to leave it out; links may lead into ``links_into`` as well; ``hash_file`` may remember
    (``HashMemory``). Raises ``UsageError`` for files that can't be kept or a bad name, ``StoreError`` when the store
    fails or a file changes meanwhile. However it ends, no broken snapshot is seen.
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
            sent = _upload_all(store, list(contents.values()), progress)
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
    pull goes on where it stopped; concurrent pulls wait for one another. Raises ``UsageError`` when ``folder`` holds
    something else, ``DiskFullError``, and ``StoreError`` when a blob is missing or damaged.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(f".{folder.name}.snapshot")) as marker:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            _check_reusable(marker, ref, folder)
            return folder
        manifest = read_manifest(store, ref)
        partial = folder.with_name(f".{folder.name}.{ref.digest[:12]}.partial")
        with _disk_full_explained(folder):
            partial.mkdir(exist_ok=True)
            require_space(partial, manifest.size, str(ref), "pull to another disk")
            for parent in {(partial / file.path).parent for file in manifest.files}:
                parent.mkdir(parents=True, exist_ok=True)
            counter = Progress(manifest.size, progress)
            for_each(
                lambda file: _download(store, ref, file, partial / file.path, counter),
                manifest.files,
                workers=DOWNLOADS,
                progress=counter,
            )
            # The marker first: a kill in between leaves a marker without a folder, which is pulled again.
            marker.seek(0)
            marker.truncate()
            marker.write(manifest.model_dump_json())
            marker.flush()
            partial.replace(folder)
    return folder


def verify(store: ObjectStore, ref: SnapshotRef) -> list[str]:
    """What is wrong with a snapshot; empty when it is intact. Reads and hashes every blob."""
    try:
        manifest = read_manifest(store, ref)
    except StoreError as error:
        if store.exists(manifest_key(ref)):
            return [error.message]
        return [f"the manifest of {ref} is missing"]
    found = for_each(lambda file: _blob_problem(store, file), manifest.files, workers=DOWNLOADS)
    return [problem for problem in found if problem]


def missing_blobs(store: ObjectStore, manifest: Manifest) -> list[str]:
    """Paths whose blob the store lacks or has in another size; asks for sizes only."""
    sizes = {file.sha256: file.size for file in manifest.files}
    found = for_each(lambda sha256: (sha256, store.size(blob_key(sha256))), sizes, workers=LOOKUPS)
    bad = {sha256 for sha256, size in found if size != sizes[sha256]}
    return [file.path for file in manifest.files if file.sha256 in bad]


def latest(store: ObjectStore, kind: SnapshotKind, name: str) -> SnapshotRef | None:
    """The snapshot of that name that was pushed last; None when there is none."""
    check_name(name)
    times = {}
    for found in store.list(f"{SNAPSHOTS}{kind}/{name}/"):
        ref = parse_manifest_key(found.key)
        if ref is not None and ref.name == name:
            times[ref] = found.modified
    newest = [ref for ref, time in times.items() if time == max(times.values())]
    if len(newest) > 1:
        # S3 servers give times in seconds; within one, the pushing machine's own clock decides.
        newest.sort(key=lambda ref: read_manifest(store, ref).created)
    return newest[-1] if newest else None


def list_snapshots(store: ObjectStore, kind: SnapshotKind | None = None) -> list[SnapshotInfo]:
    """All snapshots (of one kind), by kind and name, the oldest first."""
    refs = [parse_manifest_key(found.key) for found in store.list(f"{SNAPSHOTS}{kind}/" if kind else SNAPSHOTS)]
    manifests = for_each(lambda ref: read_manifest(store, ref), [ref for ref in refs if ref], workers=LOOKUPS)
    infos = [SnapshotInfo(m.ref, m.created, m.origin, len(m.files), m.size) for m in manifests]
    return sorted(infos, key=lambda info: (info.ref.kind, info.ref.name, info.created))


def _upload_all(
    store: ObjectStore, contents: list[tuple[Path, Hashed]], progress: Callable[[int, int], None] | None
) -> int:
    """Send what the store lacks; the bytes sent."""
    counter = Progress(sum(hashed.size for _, hashed in contents), progress)
    return sum(for_each(lambda each: _upload(store, *each, counter), contents, workers=UPLOADS, progress=counter))


def _upload(store: ObjectStore, source: Path, hashed: Hashed, progress: Progress) -> int:
    """Send one file unless the store has it; the bytes sent."""
    key = blob_key(hashed.sha256)
    # One of another size is a damaged blob; writing it anew heals every snapshot that has it.
    if store.size(key) == hashed.size:
        progress.advance(hashed.size)
        return 0
    store.put_file(source, key, hashed=hashed, advance=progress.advance)
    return hashed.size


def _download(store: ObjectStore, ref: SnapshotRef, file: FileRecord, target: Path, progress: Progress) -> None:
    """Fetch one file, going on after what an earlier attempt left; ``target`` is right, or gone, at the end."""
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
    raise StoreError(
        f"{file.path} of {ref} is {'missing' if missing else 'damaged'} in the object store.",
        _REPAIR[ref.kind].format(name=ref.name),
    )


_REPAIR = {
    "dataset": "Bringing the same files again repairs it: `pippa data push FOLDER --name {name}`.",
    "model": "Bringing the same files again repairs it: `pippa models add ./FOLDER --name {name}`.",
    "checkpoint": "`pippa checkpoints verify {name}` lists all damage, `pippa checkpoints list {name}` earlier ones.",
}


def _blob_problem(store: ObjectStore, file: FileRecord) -> str | None:
    hasher, size = hashlib.sha256(), 0
    try:
        for chunk in store.stream(blob_key(file.sha256)):
            hasher.update(chunk)
            size += len(chunk)
    except MissingObjectError:
        return f"{file.path}: blob {file.sha256[:12]} is missing"
    if size != file.size:
        return f"{file.path}: {size} bytes instead of {file.size}"
    if hasher.hexdigest() != file.sha256:
        return f"{file.path}: the content has another hash than {file.sha256[:12]}"
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
                f"The disk of {folder} is full.", "Free some space and pull again; it goes on where it stopped."
            ) from error
        raise
