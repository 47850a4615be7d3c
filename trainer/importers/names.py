"""What the name of a dataset or a base model means. No request is made here, and nothing heavy is imported."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from trainer.errors import UsageError
from trainer.generation import DEFAULT, GENERATIONS

Kind = Literal["dataset", "model"]

SYNTHETIC = "synthetic.PickNPlace"
TINY = DEFAULT.tiny
GENERATED: Mapping[Kind, tuple[str, ...]] = {
    "dataset": (SYNTHETIC,),
    "model": tuple(generation.tiny for generation in GENERATIONS),
}
"""What pippa makes itself."""
DEMO = "robot_sim.PickNPlace"
ISAAC_REF = "n1.5-release"
DEMOS: Mapping[str, str] = {DEMO: ISAAC_REF, "cube_to_bowl_5": "n1.7-release"}
"""Datasets that ship with Isaac-GR00T, each with the branch that has it; ``PIPPA_ISAAC_REF`` replaces the first's."""
ISAAC_REPOSITORY = "https://github.com/NVIDIA/Isaac-GR00T"

_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_STORED = re.compile(r"([\w.-]+)(?:@([0-9a-f]{6,64}))?")
_REF = re.compile(r"[\w.][\w./-]*")
_REPOSITORY_PATH = re.compile(r"[\w. -]+(/[\w. -]+)*")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,62}")
_GIT_HINT = "Write git+https://HOST/OWNER/REPOSITORY@REF#FOLDER; @REF and #FOLDER may be left out."


@dataclass(frozen=True)
class Folder:
    """A folder of this machine."""

    name: str
    """As it was written."""

    def existing(self) -> Path:
        """The folder. Raises ``UsageError`` when there is none."""
        folder = Path(self.name).expanduser().resolve()
        if folder.is_file():
            raise UsageError(f"{self.name} is a file, not a folder.", "Name the folder that holds it.")
        if not folder.is_dir():
            hint = f"It would be {folder}."
            if (hub := _HUB_ID.fullmatch(self.name)) and not self.name.startswith("."):
                hint += (
                    f" Is {hub[1]} a repository of the Hugging Face hub? `pippa data add {hub[0]}` imports a dataset."
                )
            raise UsageError(f"There is no folder {self.name}.", hint)
        return folder


@dataclass(frozen=True)
class Generated:
    """Made by pippa itself."""

    name: str


@dataclass(frozen=True)
class Stored:
    """A snapshot by its name alone: the one with that digest, else the latest."""

    name: str
    digest: str | None


@dataclass(frozen=True)
class HubRepository:
    """A repository of the Hugging Face hub, at a branch, tag or commit."""

    id: str
    revision: str | None


@dataclass(frozen=True)
class GitFolder:
    """A folder of a git repository, at a branch, tag or commit; git-lfs resolves its pointers."""

    url: str
    ref: str
    path: str
    """POSIX, in the repository; empty for all of it."""
    store_name: str


@dataclass(frozen=True)
class S3Prefix:
    """All objects of a bucket below a prefix."""

    bucket: str
    prefix: str
    """Without slashes at its ends; empty for the whole bucket."""

    @property
    def url(self) -> str:
        """``s3://bucket/prefix``"""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


Source = Folder | Generated | Stored | HubRepository | GitFolder | S3Prefix


def parse(kind: Kind, name: str, environ: Mapping[str, str] = os.environ) -> Source | None:
    """What ``name`` means; the first rule that fits, or None for a name that can't be meant.

    Raises ``UsageError`` for an address (``git+…``, ``s3://…``) that is not well formed, or holds a password.
    """
    if is_folder(name):
        return Folder(name)
    if name in GENERATED[kind]:
        return Generated(name)
    if name.startswith("git+"):
        return _git(name)
    if name.startswith("s3://"):
        return _s3(name)
    if kind == "dataset" and name in DEMOS:
        ref = (environ.get("PIPPA_ISAAC_REF") if name == DEMO else None) or DEMOS[name]
        return GitFolder(isaac_repository(environ), ref, f"demo_data/{name}", name)
    if match := _STORED.fullmatch(name):
        return Stored(match[1], match[2])
    if match := _HUB_ID.fullmatch(name):
        return HubRepository(match[1], match[2])
    return None


def isaac_repository(environ: Mapping[str, str] = os.environ) -> str:
    """The address of Isaac-GR00T's repository: ``PIPPA_ISAAC_REPOSITORY``, by default NVIDIA's.

    Raises ``UsageError`` for one that holds a password.
    """
    variable = "PIPPA_ISAAC_REPOSITORY"
    url = environ.get(variable) or ISAAC_REPOSITORY
    _refuse_credentials(_split(url), f" in {variable}")
    return url


def is_folder(name: str) -> bool:
    """Whether ``name`` means a folder: it begins with ``/``, ``.`` or ``~``, or is ``some/folder`` that exists here."""
    return name.startswith(("/", ".", "~")) or ("/" in name and Path(name).is_dir())


def plain(name: str) -> str:
    """A folder's name as the store takes it."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip(".-_") or "folder"


def default_name(source: Source) -> str:
    """What a snapshot of ``source`` is called in the store by default."""
    match source:
        case Folder():
            return plain(source.existing().name)
        case HubRepository():
            return source.id
        case GitFolder():
            return source.store_name
        case S3Prefix():
            return plain(source.prefix.rpartition("/")[2] or source.bucket)
    return source.name


def describe(kind: Kind, name: str) -> str:
    """Where ``name`` comes from, for people."""
    match parse(kind, name):
        case Folder():
            return "this folder"
        case Generated():
            return "generated"
        case HubRepository():
            return "the object store, else the Hugging Face hub"
        case GitFolder() as git:
            return f"the object store, else {git.path or 'all'} of {git.url} at {git.ref}, with git"
        case S3Prefix():
            return "the object store, else that prefix"
    return f"a {'dataset' if kind == 'dataset' else 'base model'} in the object store"


def _git(name: str) -> GitFolder:
    address, _, path = name.removeprefix("git+").partition("#")
    parts = _split(address)
    _refuse_credentials(parts)
    if parts.scheme not in ("https", "http", "ssh", "file") or not parts.path.strip("/"):
        raise UsageError(f"{name} is not the address of a git repository.", _GIT_HINT)
    repository, at, ref = parts.path.rpartition("@")
    if not at:
        repository, ref = parts.path, "HEAD"
    path = path.strip("/")
    if not repository.strip("/") or not _REF.fullmatch(ref) or ".." in ref:
        raise UsageError(f"{name} is not the address of a git repository.", _GIT_HINT)
    if path and (not _REPOSITORY_PATH.fullmatch(path) or any(not part.strip(".") for part in path.split("/"))):
        raise UsageError(f"{path!r} is not a folder of a repository.", _GIT_HINT)
    called = path.rpartition("/")[2] or repository.rstrip("/").rpartition("/")[2].removesuffix(".git")
    return GitFolder(parts._replace(path=repository).geturl(), ref, path, plain(called))


def _split(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError:  # brackets that hold no IPv6 address
        shown = address.rpartition("@")[2]  # without a password
        raise UsageError(f"{shown} is not the address of a git repository.", _GIT_HINT) from None


def _refuse_credentials(parts: SplitResult, where: str = "") -> None:
    if parts.password is not None or (parts.username is not None and parts.scheme != "ssh"):
        # The address is kept with the snapshot, and shown.
        raise UsageError(
            f"The address of the git repository at {parts.hostname}{where} holds credentials.",
            "Leave them out and let git find them: `git config --global credential.helper store`, or ~/.netrc.",
        )


def _s3(name: str) -> S3Prefix:
    bucket, _, prefix = name.removeprefix("s3://").partition("/")
    prefix = prefix.strip("/")
    if not _BUCKET.fullmatch(bucket) or any(part in ("", ".", "..") for part in prefix.split("/") if prefix):
        raise UsageError(f"{name} is not the address of an S3 prefix.", "Write s3://BUCKET/PREFIX.")
    return S3Prefix(bucket, prefix)
