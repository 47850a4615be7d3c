"""Garbage collection: deletes what nothing refers to, and, when asked, checkpoints beyond those that are to be kept.

Kept for sure: registered checkpoints (with a ``Retention``: those it keeps, those with an alias, and all of runs that
go on), what any run can be continued from, the datasets and models that any of them or any run's spec names, the latest
of each dataset and model, everything younger than the grace period, and everything a writer announced.
``trainer.store.gc_barrier`` says why a writer and a collection at the same moment can't hurt each other.

What can't be read stays, with all that it may need (``gc_roots``): a damaged manifest may name any blob, so that no
blob goes until it is repaired.

Most of the time is spent reading, without holding anybody up. Only then the collector announces a sweep, reads what is
new since, and deletes; when a writer comes, it lets it through and begins another sweep.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

from trainer.config.run_spec import SnapshotKind, SnapshotRef
from trainer.errors import DamagedObjectError, UsageError
from trainer.store.best import best_of_each_run
from trainer.store.clock import CLOCK, store_time
from trainer.store.damage import QUARANTINE
from trainer.store.gc_barrier import INTENT_VALID, SWEEP_VALID, SWEEPS, Sweep, intended_keys
from trainer.store.gc_roots import Entry, Pause, ReadCache, Roots, blob_keys, read_roots
from trainer.store.manifest import BLOBS, manifest_key
from trainer.store.object_store import ObjectInfo, ObjectStore, damaged
from trainer.store.parallel import for_each
from trainer.store.registry import list_checkpoints
from trainer.store.resume_points import snapshot_name
from trainer.store.retention import Retention
from trainer.store.snapshots import latest

GRACE = timedelta(hours=24)
QUARANTINED = timedelta(days=30)
"""How long what was taken out of the way stays."""
_DELETES = 8
"""At once."""
_BATCH = 64
"""Deletes after which the collector looks whether somebody waits."""

Item = TypeVar("Item")


@dataclass
class Collected:
    """What a collection deleted, or would delete."""

    checkpoints: list[str] = field(default_factory=list)
    """``<run id>/<step>``."""
    snapshots: list[SnapshotRef] = field(default_factory=list)
    blobs: int = 0
    bytes_freed: int = 0
    damage: list[DamagedObjectError] = field(default_factory=list)
    """What could not be read."""
    withheld: list[str] = field(default_factory=list)
    """What was not deleted because of that, and why."""


@dataclass
class _Plan:
    """What to delete, in the order in which a crash half-way leaves nothing broken: what refers goes first."""

    entries: list[Entry] = field(default_factory=list)
    manifests: list[tuple[str, SnapshotRef]] = field(default_factory=list)
    blobs: list[ObjectInfo] = field(default_factory=list)
    litter: list[str] = field(default_factory=list)
    """What killed processes left, and what was long enough in quarantine."""
    damage: list[DamagedObjectError] = field(default_factory=list)
    withheld: list[str] = field(default_factory=list)


def collect(
    store: ObjectStore,
    *,
    keep: int | None = None,
    every: int | None = None,
    keep_best: bool = False,
    grace: timedelta = GRACE,
    dry_run: bool = False,
) -> Collected:
    """Delete what nothing refers to any more; with ``dry_run`` only say what that would be.

    ``keep`` and ``every`` also remove checkpoints that such a ``Retention`` doesn't keep, except those that have an
    alias or belong to an active run; ``keep_best`` spares the best of each run too. ``grace`` protects what was
    written lately, such as a snapshot not yet registered. Raises ``UsageError`` for a number below 1.
    """
    if keep is not None and keep < 1:
        raise UsageError(f"keep={keep} would delete every checkpoint.", "Keep at least the newest one of each run.")
    spared = best_of_each_run(list_checkpoints(store)) if keep_best else set()
    collection = _Collection(store, Retention(keep, every), grace, spared=spared)
    plan = collection.plan(store_time(store), lambda: None)
    return _outcome(plan) if dry_run else collection.run()


def thin(store: ObjectStore, run_id: str, retention: Retention, memory: ReadCache | None = None) -> Collected:
    """Delete what an active run leaves behind: what its ``retention`` doesn't keep and has no alias, with the
    files that it alone needs, and training state that was replaced.

    For the run itself, between two checkpoints. With the ``memory`` of the time before only what is new is read.
    """
    return _Collection(store, retention, timedelta(0), run_id, memory).run()


class _Collection:
    """A collection of the whole store, or of what ``run_id`` leaves behind."""

    def __init__(
        self,
        store: ObjectStore,
        retention: Retention,
        grace: timedelta,
        run_id: str | None = None,
        memory: ReadCache | None = None,
        spared: Collection[str] = (),
    ) -> None:
        self.spared = spared
        self.store = store
        self.retention = retention
        self.grace = grace
        self.run_id = run_id
        self.memory = memory or ReadCache()
        self.left_behind: set[str] = set()
        """Manifests of the run that may go, those of entries that an earlier sweep deleted included."""
        self.candidates: dict[str, ObjectInfo] | None = None
        """Blobs that may go. Listed once: what becomes garbage meanwhile is left to the next collection."""

    def run(self) -> Collected:
        """Sweep, as often as writers come in between, until all that may go is gone."""
        done = Collected()
        while True:
            with Sweep(self.store) as sweep:
                plan = self.plan(sweep.now, sweep.check)
                done.damage, done.withheld = plan.damage, plan.withheld
                if self._delete(sweep, plan, done):
                    self.store.abort_uploads(BLOBS, sweep.now - INTENT_VALID)
                    return done

    def plan(self, now: datetime, pause: Pause) -> _Plan:
        """What to delete. The intents are read before everything they may turn into."""
        damage: list[DamagedObjectError] = []
        intended, litter = intended_keys(self.store, now, damage)
        if damage:
            return _Plan(damage=damage, withheld=["Nothing was deleted: what is announced there may be anything."])
        pause()
        roots = read_roots(self.store, self.memory, pause)
        withheld: list[str] = []
        doomed = self._doomed(roots, intended)
        if doomed and not roots.knows_aliases:
            withheld.append("All checkpoints stay: the alias may name any of them.")
            doomed = []
        kept = set(roots.entries) - set(doomed)
        needed = roots.needed | {entry.snapshot for entry in kept}
        needed |= {ref for entry in kept for ref in entry.sources}
        keys = {manifest_key(ref) for ref in needed} | intended | _latest_of_each(self.store, roots)
        mine = self._may_go(roots, doomed)
        keys |= {key for key, each in roots.manifests.items() if key not in mine or self._stays(*each, roots, now)}
        # Not among them: a spec may name a dataset that was never pushed, and there is nothing to protect then.
        keys = (keys & roots.manifests.keys()) | {manifest_key(entry.snapshot) for entry in kept}
        garbage = [(key, roots.manifests[key][0]) for key in sorted(mine - keys)]
        named = self._blob_keys(keys, roots, pause)
        roots.damage += [damaged(key, "it is missing") for key in sorted(keys - roots.manifests.keys())]
        marked = intended.union(*named.values())
        if keys - named.keys():
            withheld.append("All files stay: the damaged manifest may name any of them.")
            blobs = []
        else:
            candidates = self._candidates([key for key, _ in garbage], roots, now, pause)
            blobs = [info for key, info in candidates.items() if key not in marked]
        return _Plan(doomed, garbage, blobs, litter + self._litter(now), roots.damage, withheld)

    def _doomed(self, roots: Roots, intended: set[str]) -> list[Entry]:
        by_run: dict[str, list[Entry]] = {}
        for entry in roots.entries:
            by_run.setdefault(entry.run_id, []).append(entry)
        surplus = {
            entry.key
            for entries in by_run.values()
            for dropped in [self.retention.surplus([entry.step for entry in entries])]
            for entry in entries
            if entry.step in dropped
        }
        return [
            entry
            for entry in roots.entries
            if entry.key in surplus
            and entry.name not in roots.aliased
            and entry.name not in self.spared
            and entry.key not in intended
            and self._may_thin(entry, roots)
        ]

    def _may_thin(self, entry: Entry, roots: Roots) -> bool:
        return entry.run_id == self.run_id if self.run_id else entry.run_id not in roots.active

    def _may_go(self, roots: Roots, doomed: list[Entry]) -> set[str]:
        """The manifests that go if nothing needs them."""
        if self.run_id is None:
            return set(roots.manifests)
        self.left_behind |= {manifest_key(entry.snapshot) for entry in doomed}
        replaced = {key for key, (ref, _) in roots.manifests.items() if ref.name == snapshot_name(self.run_id)}
        return (self.left_behind | replaced) & roots.manifests.keys()

    def _stays(self, ref: SnapshotRef, info: ObjectInfo, roots: Roots, now: datetime) -> bool:
        """Whether a snapshot stays that nothing names."""
        goes_on = self.run_id is None and ref.kind == "checkpoint" and ref.name in roots.active
        return goes_on or now - info.modified < self.grace or roots.may_need(ref)

    def _blob_keys(self, manifests: Iterable[str], roots: Roots, pause: Pause) -> dict[str, frozenset[str]]:
        """The blobs of those manifests that are there and can be read."""
        infos = [roots.manifests[key][1] for key in sorted(manifests) if key in roots.manifests]
        return blob_keys(self.store, self.memory, infos, roots.damage, pause)

    def _candidates(self, garbage: list[str], roots: Roots, now: datetime, pause: Pause) -> dict[str, ObjectInfo]:
        """Blobs that go if no manifest that stays names them."""
        if self.run_id is not None:
            known = self.candidates or {}
            for key in set().union(*self._blob_keys(garbage, roots, pause).values()) - known.keys():
                pause()
                if found := self.store.info(key):
                    known[key] = found
            self.candidates = known
        elif self.candidates is None:
            self.candidates = {}
            for number, found in enumerate(self.store.list(BLOBS)):
                if number % 1000 == 0:
                    pause()
                if now - found.modified >= self.grace:
                    self.candidates[found.key] = found
        return self.candidates

    def _litter(self, now: datetime) -> list[str]:
        ages = {SWEEPS: 10 * SWEEP_VALID, CLOCK: GRACE, QUARANTINE: QUARANTINED}
        return [
            found.key for prefix, age in ages.items() for found in self.store.list(prefix) if now - found.modified > age
        ]

    def _delete(self, sweep: Sweep, plan: _Plan, done: Collected) -> bool:
        """Delete what is planned; False when it stopped for a writer, with part of it done."""
        for entries in _batches(plan.entries):
            for_each(sweep.delete, [entry.key for entry in entries], workers=_DELETES)
            done.checkpoints += [entry.name for entry in entries]
            if sweep.writer_waits():
                return False
        for manifests in _batches(plan.manifests):
            for_each(sweep.delete, [key for key, _ in manifests], workers=_DELETES)
            done.snapshots += [ref for _, ref in manifests]
            if sweep.writer_waits():
                return False
        for blobs in _batches(plan.blobs):
            for_each(sweep.delete, [blob.key for blob in blobs], workers=_DELETES)
            for blob in blobs:
                if self.candidates is not None:
                    self.candidates.pop(blob.key, None)
                done.blobs += 1
                done.bytes_freed += blob.size
            if sweep.writer_waits():
                return False
        for_each(sweep.delete, plan.litter, workers=_DELETES)
        return True


def _batches(items: list[Item]) -> Iterator[list[Item]]:
    for start in range(0, len(items), _BATCH):
        yield items[start : start + _BATCH]


def _latest_of_each(store: ObjectStore, roots: Roots) -> set[str]:
    """The manifest of each dataset and model that was pushed last."""
    newest: dict[tuple[SnapshotKind, str], tuple[datetime, list[SnapshotRef]]] = {}
    for ref, info in roots.manifests.values():
        if ref.kind != "checkpoint":
            time, refs = newest.get((ref.kind, ref.name), (info.modified, []))
            if info.modified > time:
                time, refs = info.modified, []
            newest[ref.kind, ref.name] = time, [*refs, ref] if info.modified == time else refs
    # S3 servers give times in seconds: of several at the same time the documents tell.
    found = [refs[0] if len(refs) == 1 else latest(store, *name) for name, (_, refs) in newest.items()]
    return {manifest_key(ref) for ref in found if ref is not None}


def _outcome(plan: _Plan) -> Collected:
    """What would be deleted."""
    return Collected(
        checkpoints=[entry.name for entry in plan.entries],
        snapshots=[ref for _, ref in plan.manifests],
        blobs=len(plan.blobs),
        bytes_freed=sum(blob.size for blob in plan.blobs),
        damage=plan.damage,
        withheld=plan.withheld,
    )
