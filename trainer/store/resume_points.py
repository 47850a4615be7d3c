"""From where a run can be continued on another machine: one whole checkpoint with its training state, per run.

Registered checkpoints hold what a policy is. What only resuming needs (AdamW's two moments are twice the tuned weights)
is kept once per run, replaced as it goes on, and forgotten when the run is done. The snapshot shares its weights' blobs
with the registered checkpoint of that step.
"""

from __future__ import annotations

import fnmatch

from pydantic import BaseModel, ConfigDict, ValidationError

from trainer.errors import StoreError
from trainer.spec import SnapshotRef
from trainer.store.client import ObjectStore
from trainer.store.intents import relying_on
from trainer.store.manifest import manifest_key, read_manifest
from trainer.store.parallel import for_each
from trainer.store.runs import RUNS
from trainer.store.snapshots import LOOKUPS, missing_blobs

_FILES = ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth")
"""As transformers' Trainer names them."""
_SUFFIX = "/resume.json"


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
    """Where a run can be continued; None when nothing was kept yet, or it is done."""
    return _read(store, _key(run_id))


def move(store: ObjectStore, run_id: str, point: ResumePoint) -> None:
    """Continue the run from ``point`` from now on. Raises ``StoreError`` unless its snapshot is whole.

    The snapshot of the point before becomes garbage.
    """
    manifest = read_manifest(store, point.snapshot)
    with relying_on(store, {manifest_key(point.snapshot), *manifest.blob_keys()}):
        # Read again under the intent's protection: a collection may have just ended.
        if missing := missing_blobs(store, read_manifest(store, point.snapshot)):
            raise StoreError(f"The object store lacks {missing[0]} of {point.snapshot}.", "Push it again.")
        store.write_json(_key(run_id), point.model_dump(mode="json"))


def forget(store: ObjectStore, run_id: str) -> None:
    """The run is done: nobody continues it."""
    store.delete(_key(run_id))


def all_points(store: ObjectStore) -> list[ResumePoint]:
    """Those of every run."""
    keys = [found.key for found in store.list(RUNS) if found.key.endswith(_SUFFIX) and found.key.count("/") == 2]
    return [point for point in for_each(lambda key: _read(store, key), keys, workers=LOOKUPS) if point]


def _key(run_id: str) -> str:
    return f"{RUNS}{run_id}{_SUFFIX}"


def _read(store: ObjectStore, key: str) -> ResumePoint | None:
    content = store.read_bytes(key)
    try:
        return None if content is None else ResumePoint.model_validate_json(content)
    except ValidationError as error:
        raise StoreError(
            f"{key} in the object store is damaged: {error.errors()[0]['msg']}.",
            "It may come from a newer pippa; else delete it, and the run continues from what is on its machine's disk.",
        ) from error
