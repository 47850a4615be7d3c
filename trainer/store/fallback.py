"""Pulling the newest checkpoint that is whole, where the requested one is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from trainer.config.run_spec import RUN_ID
from trainer.errors import DamagedObjectError, StoreError
from trainer.store import registry, snapshots
from trainer.store.object_store import MissingObjectError, ObjectStore
from trainer.store.registry import CheckpointEntry


def pull_newest_good(
    store: ObjectStore,
    name: str,
    folder: Path,
    *,
    skipped: Callable[[str, StoreError], None],
    progress: Callable[[int, int], None] | None = None,
) -> CheckpointEntry:
    """Pull the checkpoint ``name``, or the newest good one before it of the same run; returns which it was.

    ``skipped`` hears of each damaged one. Raises ``DamagedObjectError`` when none is good, and as
    ``registry.resolve`` and ``snapshots.pull`` do.
    """
    for entry in _candidates(store, name, skipped):
        try:
            snapshots.pull(store, entry.snapshot, folder, progress=progress)
        except (DamagedObjectError, MissingObjectError) as error:
            skipped(entry.name, error)
            snapshots.discard_partial(entry.snapshot, folder)
        else:
            return entry
    raise DamagedObjectError(f"Neither {name} nor a checkpoint before it is whole.", "`pippa store check` lists all.")


def _candidates(store: ObjectStore, name: str, skipped: Callable[[str, StoreError], None]) -> Iterator[CheckpointEntry]:
    """The named checkpoint, if it can be read, and then those before it of its run."""
    try:
        first = registry.resolve(store, name)
    except DamagedObjectError as error:
        skipped(name, error)
        first = registry.moved_by_pippa(store, name)
        run_id, below = _meant(store, name) or ((first.run_id, first.step) if first else ("", 0))
        if first is not None and first.run_id != run_id:
            first = None
    else:
        run_id, below = first.run_id, first.step
    if first is not None:
        yield first
    if run_id:
        earlier = registry.list_checkpoints(store, run_id)
        yield from (entry for entry in reversed(earlier) if entry.step < below)


def _meant(store: ObjectStore, name: str) -> tuple[str, int] | None:
    """Run and step that ``name`` stands for, though the entry is damaged; None when the alias itself is."""
    if RUN_ID.fullmatch(name):
        steps = registry.steps_of(store, name)
        return (name, steps[-1]) if steps else None
    if not RUN_ID.fullmatch(name.partition("/")[0]):
        try:
            name = registry.alias_target(store, name) or ""
        except DamagedObjectError:
            return None
    return registry.parse_entry_key(f"{registry.CHECKPOINTS}{name}.json")
