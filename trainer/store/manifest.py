"""The manifest of a snapshot: which files it has, and the digest that names it."""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_left
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from trainer.config.run_spec import SnapshotKind, SnapshotRef
from trainer.errors import UsageError
from trainer.store.object_store import MissingObjectError, ObjectStore, damaged
from trainer.wrong_values import first_problem

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

SNAPSHOTS = "snapshots/"
BLOBS = "blobs/sha256/"
LONGEST_PATH = 1024
"""Bytes, as in S3's keys; a name in it has 255, as on disks."""
DEEPEST = 64
MAX_FILES = 1_000_000
LARGEST_FILE = 1 << 50
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_NAME = re.compile(rf"{_PART}(/{_PART})*")
_KEY = re.compile(rf"{SNAPSHOTS}(dataset|model|checkpoint)/({_NAME.pattern})/([0-9a-f]{{64}})\.json")


class FileRecord(BaseModel):
    """One file of a snapshot."""

    model_config = ConfigDict(frozen=True)

    path: str
    """POSIX, relative to the folder."""
    size: Annotated[int, Field(ge=0, le=LARGEST_FILE)]
    sha256: Sha256

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, path: str) -> str:
        parts = path.split("/")
        if "\0" in path or any(part in ("", ".", "..") for part in parts):
            raise ValueError(f"{path[:200]!r} is not a relative path inside the folder")
        # Encoded: a name that is not UTF-8 can't be written as JSON.
        if len(path.encode()) > LONGEST_PATH or len(parts) > DEEPEST or max(len(part.encode()) for part in parts) > 255:
            raise ValueError(f"{path[:200]!r}… is too long or too deep for a file's path")
        return path


class Manifest(BaseModel):
    """A snapshot. Two folders with the same files have the same digest, whatever ``name`` and ``origin``."""

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    kind: SnapshotKind
    name: str
    digest: Sha256
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))
    origin: dict[str, str] = {}
    """Where the files came from (hub id, commit, …); not part of the digest."""
    files: Annotated[list[FileRecord], Field(max_length=MAX_FILES)]

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        paths = [file.path for file in self.files]
        if paths != sorted(set(paths)):
            raise ValueError("the paths are not sorted and unique")
        for path in paths:
            following = bisect_left(paths, f"{path}/")
            if following < len(paths) and paths[following].startswith(f"{path}/"):
                raise ValueError(f"{path!r} is a file and a folder")
        if self.digest != digest_of(self.files):
            raise ValueError("the digest is not that of the files")
        return self

    @classmethod
    def of(cls, kind: SnapshotKind, name: str, files: Iterable[FileRecord], origin: dict[str, str]) -> Self:
        """The manifest of these files."""
        ordered = sorted(files, key=lambda file: file.path)
        return cls(kind=kind, name=name, digest=digest_of(ordered), origin=origin, files=ordered)

    @property
    def ref(self) -> SnapshotRef:
        """Its name in the store."""
        return SnapshotRef(kind=self.kind, name=self.name, digest=self.digest)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def blob_keys(self) -> set[str]:
        """Keys of the blobs it needs."""
        return {blob_key(file.sha256) for file in self.files}


def digest_of(files: Iterable[FileRecord]) -> str:
    """SHA-256 of the canonical manifest: compact UTF-8 JSON of ``[path, size, sha256]`` of each file, by path."""
    rows = sorted([file.path, file.size, file.sha256] for file in files)
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()


def blob_key(sha256: str) -> str:
    """Where the content with this hash lies."""
    return f"{BLOBS}{sha256[:2]}/{sha256}"


def manifest_key(ref: SnapshotRef) -> str:
    """Where the manifest of a snapshot lies."""
    return f"{SNAPSHOTS}{ref.kind}/{ref.name}/{ref.digest}.json"


def parse_manifest_key(key: str) -> SnapshotRef | None:
    """The snapshot a key belongs to; None for a key that is no manifest's."""
    found = _KEY.fullmatch(key)
    if not found:
        return None
    return SnapshotRef.model_validate({"kind": found[1], "name": found[2], "digest": found.groups()[-1]})


def check_name(name: str) -> None:
    """Raise ``UsageError`` unless ``name`` can name a snapshot."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} can't name a snapshot.",
            "Use letters, digits, '.', '_' and '-', with '/' between parts: for example my-team/table-cleanup.",
        )


def read_manifest(store: ObjectStore, ref: SnapshotRef) -> Manifest:
    """The manifest of a snapshot. Raises ``MissingObjectError``, or ``DamagedObjectError`` when it can't be read."""
    check_name(ref.name)
    document = store.read_json(manifest_key(ref))
    if document is None:
        raise MissingObjectError(
            f"There is no {ref.kind} {ref} in the object store.", "`pippa data list` and `pippa checkpoints` show all."
        )
    try:
        manifest = Manifest.model_validate(document)
    except ValidationError as error:
        raise damaged(manifest_key(ref), first_problem(error, Manifest), "Push the folder again.") from error
    if manifest.digest != ref.digest:
        raise damaged(manifest_key(ref), f"it is that of {manifest.ref}", "Push the folder again.")
    return manifest
