"""From where a run can be continued on another machine: one whole checkpoint with its training state, per run.

Registered checkpoints hold what a policy is. What only resuming needs (AdamW's two moments are twice the tuned weights)
is kept once per run, replaced while it is active, and forgotten when it is done. The snapshot shares its weights' blobs
with the registered checkpoint of that step.
"""

from __future__ import annotations

import fnmatch

from pydantic import BaseModel, ConfigDict

from trainer.config.run_spec import SnapshotRef
from trainer.errors import DamagedObjectError, StoreError
from trainer.store import runs
from trainer.store.gc_barrier import relying_on
from trainer.store.manifest import manifest_key, read_manifest
from trainer.store.object_store import ObjectStore
from trainer.store.snapshots import unsound_blobs

_FILES = ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth")
"""As transformers' Trainer names them."""
FILE = "resume.json"


class ResumePoint(BaseModel):
    """The newest checkpoint in the store that has its training state."""

    model_config = ConfigDict(frozen=True)

    step: int
    snapshot: SnapshotRef


def is_training_state(path: str) -> bool:
    """Whether a file of a checkpoint is needed for nothing but resuming."""
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in _FILES)


def snapshot_name(run_id: str) -> str:
    """The name of the run's snapshots with training state, which are no registered checkpoints."""
    return f"{run_id}/resume"


def read(store: ObjectStore, run_id: str) -> ResumePoint | None:
    """Where a run can be continued; None when nothing was kept yet, it is done, or the note is damaged.

    The run that continues writes the note again.
    """
    try:
        return runs.read_document(store, run_id, FILE, ResumePoint)
    except DamagedObjectError:
        return None


def move(store: ObjectStore, run_id: str, point: ResumePoint) -> None:
    """Continue the run from ``point`` from now on. Raises ``StoreError`` unless its snapshot is whole.

    The snapshot of the point before becomes garbage.
    """
    manifest = read_manifest(store, point.snapshot)
    with relying_on(store, {manifest_key(point.snapshot), *manifest.blob_keys()}):
        # Read again under the intent's protection: a collection may have just ended.
        if missing := unsound_blobs(store, read_manifest(store, point.snapshot)):
            raise StoreError(f"The object store lacks {missing[0]} of {point.snapshot}.", "Push it again.")
        runs.write_file(store, run_id, FILE, point.model_dump_json().encode())


def forget(store: ObjectStore, run_id: str) -> None:
    """The run is done: nothing continues it."""
    store.delete(f"{runs.RUNS}{run_id}/{FILE}")
