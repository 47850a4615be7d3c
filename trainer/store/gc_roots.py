"""What a garbage collection must keep, by what can be read of the store.

What can't be read may need anything that it could name: a damaged entry whatever its run may have used, a damaged
manifest any blob, a damaged alias any checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from trainer.config.run_spec import RUN_ID, RunSpec, SnapshotRef
from trainer.errors import DamagedObjectError
from trainer.store import registry, resume_points, runs
from trainer.store.damage import read_good
from trainer.store.manifest import SNAPSHOTS, parse_manifest_key, read_manifest
from trainer.store.object_store import MissingObjectError, ObjectInfo, ObjectStore

Document = TypeVar("Document")
Pause = Callable[[], None]
"""Called now and then during long readings."""

_AT_ONCE = 500
"""Objects between two pauses."""


class Entry(NamedTuple):
    """What a collection needs of a registered checkpoint; a store has thousands of them."""

    key: str
    run_id: str
    step: int
    snapshot: SnapshotRef
    sources: frozenset[SnapshotRef]

    @property
    def name(self) -> str:
        """``<run id>/<step>``."""
        return f"{self.run_id}/{self.step}"


class ReadCache:
    """Documents that were read. Another look reads only what the store lists with another time, size or ETag."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[ObjectInfo, object]] = {}

    def read(
        self,
        listed: Iterable[ObjectInfo],
        read: Callable[[str], Document | None],
        damage: list[DamagedObjectError],
        pause: Pause,
    ) -> dict[str, Document]:
        """The document of each object by key, without those that are gone or damaged."""

        def attempt(info: ObjectInfo) -> tuple[ObjectInfo, Document] | None:
            document = read(info.key)
            return None if document is None else (info, document)

        listed = list(listed)
        new = [info for info in listed if self._known.get(info.key, (None,))[0] != info]
        for start in range(0, len(new), _AT_ONCE):
            pause()
            for info, document in read_good(attempt, new[start : start + _AT_ONCE], damage):
                self._known[info.key] = info, document
        known = ((info, self._known.get(info.key)) for info in listed)
        return {info.key: found[1] for info, found in known if found and found[0] == info}  # pyrefly: ignore


@dataclass
class Roots:
    """What lies in a store, and what can't be read of it."""

    entries: list[Entry]
    manifests: dict[str, tuple[SnapshotRef, ObjectInfo]]
    """By key."""
    aliased: set[str]
    """Names of checkpoints."""
    active: set[str] = field(default_factory=set)
    """Runs that seem to be active."""
    needed: set[SnapshotRef] = field(default_factory=set)
    """What runs name, and what they can be continued from."""
    damage: list[DamagedObjectError] = field(default_factory=list)
    unknown: set[str] = field(default_factory=set)
    """Runs with damage of which no spec can be read."""
    unsure: set[str] = field(default_factory=set)
    """Runs with damage."""

    def may_need(self, ref: SnapshotRef) -> bool:
        """Whether something that can't be read may name this snapshot."""
        if ref.kind != "checkpoint":
            return bool(self.unknown)
        return ref.name.partition("/")[0] in self.unsure

    @property
    def knows_aliases(self) -> bool:
        """Whether each alias could be read."""
        return not any(error.key.startswith(registry.ALIASES) for error in self.damage)


def read_roots(store: ObjectStore, memory: ReadCache, pause: Pause) -> Roots:
    """Read all that refers to something. Of what was damaged, ``Roots.damage`` says so."""
    damage: list[DamagedObjectError] = []
    files: dict[str, list[ObjectInfo]] = {"spec.json": [], "state.json": [], resume_points.FILE: []}
    for found in _listed(store, runs.RUNS, pause):
        run_id, _, name = found.key.removeprefix(runs.RUNS).partition("/")
        if name in files and RUN_ID.fullmatch(run_id):
            files[name].append(found)
    specs = memory.read(files["spec.json"], lambda key: _spec(store, key), damage, pause)
    active = memory.read(files["state.json"], lambda key: _active(store, key), damage, pause)
    points = memory.read(files[resume_points.FILE], lambda key: _point(store, key), damage, pause)
    listed = [found for found in _listed(store, registry.CHECKPOINTS, pause) if registry.parse_entry_key(found.key)]
    entries = memory.read(listed, lambda key: _entry(store, key), damage, pause)
    aliased = set(registry.aliases(store, damage).values())
    manifests = {
        found.key: (ref, found) for found in _listed(store, SNAPSHOTS, pause) if (ref := parse_manifest_key(found.key))
    }
    unsure = {_run_of(error.key) for error in damage if error.key.startswith((registry.CHECKPOINTS, runs.RUNS))}
    ended = {_run_of(key) for key, goes_on in active.items() if not goes_on}
    return Roots(
        entries=list(entries.values()),
        manifests=manifests,
        aliased=aliased,
        active={_run_of(found.key) for found in files["spec.json"]} - ended,
        needed={*points.values(), *(ref for refs in specs.values() for ref in refs)},
        damage=damage,
        unsure=unsure,
        unknown=unsure - {_run_of(key) for key in specs},
    )


def blob_keys(
    store: ObjectStore,
    memory: ReadCache,
    manifests: Iterable[ObjectInfo],
    damage: list[DamagedObjectError],
    pause: Pause,
) -> dict[str, frozenset[str]]:
    """The blobs each manifest names, by the manifest's key, without those that can't be read."""

    def read(key: str) -> frozenset[str] | None:
        ref = parse_manifest_key(key)
        try:
            return None if ref is None else frozenset(read_manifest(store, ref).blob_keys())
        except MissingObjectError:
            return None

    return memory.read(manifests, read, damage, pause)


def _listed(store: ObjectStore, prefix: str, pause: Pause) -> Iterable[ObjectInfo]:
    for number, found in enumerate(store.list(prefix)):
        if number % _AT_ONCE == 0:
            pause()
        yield found


def _run_of(key: str) -> str:
    """The run in the key of an entry or of a file of a run's record."""
    return key.partition("/")[2].partition("/")[0]


def _spec(store: ObjectStore, key: str) -> frozenset[SnapshotRef]:
    return _sources(runs.read_spec(store, _run_of(key)))


def _active(store: ObjectStore, key: str) -> bool | None:
    state = runs.read_document(store, _run_of(key), "state.json", runs.RunState)
    return None if state is None else state.active


def _point(store: ObjectStore, key: str) -> SnapshotRef | None:
    point = runs.read_document(store, _run_of(key), resume_points.FILE, resume_points.ResumePoint)
    return None if point is None else point.snapshot


def _entry(store: ObjectStore, key: str) -> Entry | None:
    entry = registry.read_entry(store, key)
    if entry is None:
        return None
    return Entry(entry.key, entry.run_id, entry.step, entry.snapshot, _sources(entry.spec))


def _sources(spec: RunSpec) -> frozenset[SnapshotRef]:
    return frozenset((*spec.datasets, spec.base_model))
