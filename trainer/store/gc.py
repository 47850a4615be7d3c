"""Garbage collection: deletes what nothing refers to, and, when asked, checkpoints beyond the newest few of each run.

Kept for sure: registered checkpoints (with ``keep``: the newest ones of each run, those with an alias, and all of runs
that go on), what any run can be continued from, the datasets and models that any of them or any run's spec names, the
latest of each dataset and model, everything younger than the grace period, and everything a writer announced.
``trainer.store.gc_barrier`` says why a writer and a collection at the same moment can't hurt each other.

What can't be read stops the collection before it deletes: a damaged manifest may name any blob.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta

from trainer.config.run_spec import SnapshotRef
from trainer.errors import UsageError
from trainer.store import resume_points
from trainer.store.gc_barrier import INTENT_VALID, SWEEP_VALID, SWEEPS, Sweep, intended_keys
from trainer.store.manifest import BLOBS, SNAPSHOTS, manifest_key, parse_manifest_key, read_manifest
from trainer.store.object_store import ObjectInfo, ObjectStore
from trainer.store.parallel import for_each
from trainer.store.registry import BEST_METRIC, CheckpointEntry, aliases, list_checkpoints
from trainer.store.runs import list_runs
from trainer.store.snapshots import LOOKUPS, latest

GRACE = timedelta(hours=24)


@dataclass
class Collected:
    """What a collection deleted, or would delete."""

    checkpoints: list[str] = field(default_factory=list)
    """``<run id>/<step>``."""
    snapshots: list[SnapshotRef] = field(default_factory=list)
    blobs: int = 0
    bytes_freed: int = 0


@dataclass
class _Plan:
    """Keys to delete, in the order in which a crash half-way leaves nothing broken: what refers goes first."""

    entries: list[CheckpointEntry]
    manifests: list[tuple[str, SnapshotRef]]
    blobs: list[ObjectInfo]
    litter: list[str]
    """Expired intents and sweeps of killed processes."""


def collect(
    store: ObjectStore,
    *,
    keep: int | None = None,
    keep_best: bool = False,
    grace: timedelta = GRACE,
    dry_run: bool = False,
) -> Collected:
    """Delete what nothing refers to any more; with ``dry_run`` only say what that would be.

    ``keep`` also removes checkpoints beyond the ``keep`` newest of each run, except those that have an alias or belong
    to a run that goes on; ``keep_best`` spares the best of each run too. ``grace`` protects what was written lately,
    such as a snapshot not yet registered.
    Raises ``UsageError`` for a ``keep`` below 1, ``StoreError`` when something that is kept can't be read.
    """
    if keep is not None and keep < 1:
        raise UsageError(f"keep={keep} would delete every checkpoint.", "Keep at least the newest one of each run.")
    # Announced in a dry run too: the announcement is also how the store's time is learned.
    sweep = Sweep(store)
    try:
        plan = _plan(store, sweep, keep, keep_best, grace)
        if not dry_run:
            _delete(store, sweep, plan)
    finally:
        sweep.end()
    return Collected(
        checkpoints=[entry.name for entry in plan.entries],
        snapshots=[ref for _, ref in plan.manifests],
        blobs=len(plan.blobs),
        bytes_freed=sum(blob.size for blob in plan.blobs),
    )


def _plan(store: ObjectStore, sweep: Sweep, keep: int | None, keep_best: bool, grace: timedelta) -> _Plan:
    """What to delete. The intents are read before everything they may turn into."""
    intended, litter = intended_keys(store, sweep.now)
    litter += [found.key for found in store.list(SWEEPS) if sweep.now - found.modified > 10 * SWEEP_VALID]
    sweep.check()
    runs = list_runs(store)
    active = {run.spec.run_id for run in runs if run.state is None or run.state.active}
    entries = list_checkpoints(store)
    named = set(aliases(store).values()) | (_best_of_each(entries) if keep_best else set())
    doomed = _surplus(entries, keep, active, named, intended)
    kept = [entry for entry in entries if entry not in doomed]
    sweep.check()

    manifests = {found.key: (ref, found) for found in store.list(SNAPSHOTS) if (ref := parse_manifest_key(found.key))}
    specs = [run.spec for run in runs] + [entry.spec for entry in kept]
    roots = {entry.snapshot for entry in kept} | {point.snapshot for point in resume_points.all_points(store)}
    roots.update(ref for spec in specs for ref in (*spec.datasets, spec.base_model))
    roots.update(_latest_of_each(store, (ref for ref, _ in manifests.values())))
    needed = {manifest_key(ref) for ref in roots} | intended
    needed |= {key for key, (_, found) in manifests.items() if sweep.now - found.modified < grace}
    needed |= {key for key, (ref, _) in manifests.items() if ref.kind == "checkpoint" and ref.name in active}
    sweep.check()

    # A manifest that a kept entry needs and that is missing stops the collection here, with its name.
    # A spec may name a dataset that was never pushed; there is nothing to protect then.
    registered = {manifest_key(entry.snapshot) for entry in kept}
    read = for_each(
        lambda key: read_manifest(store, manifests[key][0] if key in manifests else _ref(key)),
        sorted(needed & manifests.keys() | registered),
        workers=LOOKUPS,
    )
    marked = intended.union(*(manifest.blob_keys() for manifest in read))
    sweep.check()
    blobs = [found for found in store.list(BLOBS) if found.key not in marked and sweep.now - found.modified >= grace]
    garbage = [(key, ref) for key, (ref, _) in manifests.items() if key not in needed]
    return _Plan(doomed, garbage, blobs, litter)


def _delete(store: ObjectStore, sweep: Sweep, plan: _Plan) -> None:
    # Not repeated and soon over, so that no delete is on its way when the announcement has expired.
    without_retries = store.without_retries()
    keys = [entry.key for entry in plan.entries]
    keys += [key for key, _ in plan.manifests]
    keys += [blob.key for blob in plan.blobs]
    for key in keys + plan.litter:
        sweep.check()
        without_retries.delete(key)
    store.abort_uploads(BLOBS, sweep.now - INTENT_VALID)


def _surplus(
    entries: list[CheckpointEntry], keep: int | None, active: set[str], aliased: set[str], intended: set[str]
) -> list[CheckpointEntry]:
    """Entries beyond the newest ``keep`` of their run that nothing else protects."""
    if keep is None:
        return []
    by_run: dict[str, list[CheckpointEntry]] = {}
    for entry in entries:
        by_run.setdefault(entry.run_id, []).append(entry)
    old = [entry for own in by_run.values() for entry in sorted(own, key=lambda entry: entry.step)[:-keep]]
    return [
        entry for entry in old if entry.run_id not in active and entry.name not in aliased and entry.key not in intended
    ]


def _best_of_each(entries: list[CheckpointEntry]) -> set[str]:
    """Of each run the checkpoint with the lowest error, of those evaluated by the full protocol where there are any.

    Of runs that were not evaluated none.
    """
    by_run: dict[str, list[tuple[bool, float, int, str]]] = {}
    for entry in entries:
        error = entry.metrics.get(BEST_METRIC, math.nan)
        if math.isfinite(error):
            full = entry.evaluation is not None and entry.evaluation.full
            by_run.setdefault(entry.run_id, []).append((not full, error, -entry.step, entry.name))
    return {min(own)[3] for own in by_run.values()}


def _latest_of_each(store: ObjectStore, refs: Iterable[SnapshotRef]) -> set[SnapshotRef]:
    names = sorted({(ref.kind, ref.name) for ref in refs if ref.kind != "checkpoint"})
    found = for_each(lambda name: latest(store, *name), names, workers=LOOKUPS)
    return {ref for ref in found if ref is not None}


def _ref(key: str) -> SnapshotRef:
    ref = parse_manifest_key(key)
    if ref is None:
        raise UsageError(f"{key} is not the key of a snapshot.")
    return ref
