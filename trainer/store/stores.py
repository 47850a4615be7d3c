"""Which object store the settings name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from trainer.config.settings import S3Settings, pippa_home
from trainer.store.folder import FolderStore
from trainer.store.object_store import ObjectStore
from trainer.store.s3 import S3Store


def open_store(environ: Mapping[str, str] = os.environ) -> ObjectStore:
    """The S3 store that ``PIPPA_S3_ENDPOINT`` names; without one, the folder ``PIPPA_HOME/store``.

    Touches neither. Raises ``StoreError`` for an endpoint that is no URL or has no keys.
    """
    if environ.get("PIPPA_S3_ENDPOINT"):
        return S3Store(S3Settings.from_environ(environ))
    return FolderStore(store_folder(pippa_home(environ)))


def store_folder(home: Path) -> Path:
    """The folder that is the store where no S3 server is named."""
    return home / "store"
