"""Which object store the settings name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from trainer.config.settings import S3Settings, pippa_home
from trainer.errors import StoreError, UsageError
from trainer.store.folder import FolderStore
from trainer.store.object_store import ObjectStore
from trainer.store.s3 import S3Store

IMAGE_HOME = Path("/var/lib/pippa")
"""``PIPPA_HOME`` in every image of pippa; the trainers' name their ``PIPPA_ENGINE`` too."""


def open_store(environ: Mapping[str, str] = os.environ) -> ObjectStore:
    """The S3 store that ``PIPPA_S3_ENDPOINT`` names; without one, the folder ``PIPPA_HOME/store``.

    Touches neither. Raises ``StoreError`` for an endpoint that is no URL or has no keys, and in an image of ours for a
    folder that nothing is mounted at.
    """
    if environ.get("PIPPA_S3_ENDPOINT"):
        return S3Store(S3Settings.from_environ(environ))
    home = pippa_home(environ)
    store = store_folder(home)
    if environ.get("PIPPA_ENGINE") and home == IMAGE_HOME and not {str(home), str(store)} & _mount_points():
        raise StoreError(
            f"PIPPA_S3_ENDPOINT is not set, and the folder {store} would be lost with this container.",
            f"Set PIPPA_S3_ENDPOINT and its keys, or mount a volume: `docker run -v pippa:{home} …`.",
        )
    return FolderStore(store)


Kind = Literal["checkpoint", "run", "dataset", "object store"]
_FIRST: dict[Kind, str] = {
    "checkpoint": "`pippa train smoke` makes some.",
    "run": "`pippa train smoke` is one.",
    "dataset": "`pippa data add NAME` imports one of the hub, `pippa data push PATH` a folder.",
    "object store": "The first training makes it, `pippa store create` does so now.",
}


def existing_store(kind: Kind, environ: Mapping[str, str] = os.environ) -> ObjectStore:
    """``open_store`` for what reads a ``kind`` of it, and makes no folder.

    Raises ``UsageError`` where nothing was stored yet, and ``StoreError`` where the folder went away after a run.
    """
    store = open_store(environ)
    if isinstance(store, FolderStore) and not store.root.is_dir():
        if (pippa_home(environ) / "runs").is_dir():
            raise store.gone(f"look for a {kind}" if kind != "object store" else "look into it")
        raise UsageError(
            f"There is no {kind} yet: {store.root} is not there.",
            f"{_FIRST[kind]} For another object store set PIPPA_HOME, or PIPPA_S3_ENDPOINT.",
        )
    return store


def store_folder(home: Path) -> Path:
    """The folder that is the store where no S3 server is named."""
    return home / "store"


def _mount_points() -> set[str]:
    return {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
