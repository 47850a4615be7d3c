"""The cache of snapshots that all runs of a machine share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from trainer.config.run_spec import SnapshotRef
from trainer.store import snapshots
from trainer.store.object_store import ObjectStore


def cached(store: ObjectStore, ref: SnapshotRef, home: Path, log: Callable[[str], None]) -> Path:
    """The snapshot's files in the cache that all runs of this machine share; pulled and verified if need be."""
    folder = home / "cache" / ref.kind / ref.digest
    if not folder.exists():
        log(f"Fetching {ref} from the store.")
    return snapshots.pull(store, ref, folder)
