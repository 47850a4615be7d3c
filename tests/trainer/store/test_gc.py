"""Garbage collection never takes what is in use, whatever happens at the same time."""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.evaluations import evaluation
from tests.support.fake_store import FakeStore
from tests.support.waiting import PATIENCE
from tests.trainer.store.conftest import a_spec
from trainer.config.run_spec import RunSpec, SnapshotRef
from trainer.errors import StoreError, UsageError
from trainer.store import gc, gc_barrier, registry, resume_points, runs, snapshots
from trainer.store.manifest import BLOBS, SNAPSHOTS, manifest_key
from trainer.store.object_store import ObjectInfo, ObjectStore
from trainer.store.registry import CheckpointEntry

NOW = timedelta(0)


def push(store: ObjectStore, files: dict[str, str], name: str, kind: str = "dataset") -> SnapshotRef:
    with tempfile.TemporaryDirectory() as folder:
        for path, content in files.items():
            (Path(folder) / path).write_text(content)
        return snapshots.push(store, Path(folder), kind, name).ref  # pyrefly: ignore


def a_run(store: ObjectStore, status: str = "done") -> RunSpec:
    spec = a_spec()
    runs.write_spec(store, spec)
    runs.write_state(store, spec.run_id, runs.RunState.model_validate({"status": status}))
    return spec


def checkpoint(store: ObjectStore, spec: RunSpec, step: int) -> CheckpointEntry:
    ref = push(store, {"frozen": spec.run_id, "tuned": f"{spec.run_id} {step}"}, spec.run_id, "checkpoint")
    entry = CheckpointEntry(run_id=spec.run_id, step=step, snapshot=ref, spec=spec)
    registry.register(store, entry)
    return entry


def age(store: FakeStore, by: timedelta, prefix: str = "") -> None:
    for key, (content, modified) in store.objects.items():
        if key.startswith(prefix):
            store.objects[key] = content, modified - by


def test_what_nothing_refers_to_goes_and_the_rest_stays(object_store: ObjectStore) -> None:
    old = push(object_store, {"a": "shared", "b": "old"}, "data")
    new = push(object_store, {"a": "shared", "b": "new"}, "data")
    used = push(object_store, {"c": "used"}, "used")
    push(object_store, {"c": "newer"}, "used")
    spec = a_spec([used])
    runs.write_spec(object_store, spec)
    runs.write_state(object_store, spec.run_id, runs.RunState(status="done"))
    kept = checkpoint(object_store, spec, 1)
    stray = push(object_store, {"d": "never registered"}, spec.run_id, "checkpoint")

    assert gc.collect(object_store) == gc.Collected()  # everything is younger than a day
    planned = gc.collect(object_store, grace=NOW, dry_run=True)
    assert set(planned.snapshots) == {old, stray}
    assert (planned.blobs, planned.bytes_freed) == (2, len("old") + len("never registered"))
    assert snapshots.verify(object_store, old) == []
    assert gc.collect(object_store, grace=NOW) == planned
    for ref in (new, used, kept.snapshot):
        assert snapshots.verify(object_store, ref) == []
    assert snapshots.verify(object_store, old)
    assert gc.collect(object_store, grace=NOW) == gc.Collected()
    assert not list(object_store.list("gc/"))


def test_keeping_the_newest_few_spares_aliases_and_runs_that_go_on(object_store: ObjectStore) -> None:
    done, live = a_run(object_store), a_run(object_store, "running")
    entries = {
        (spec.run_id, step): checkpoint(object_store, spec, step) for spec in (done, live) for step in (1, 9, 10)
    }
    registry.set_alias(object_store, "good", entries[done.run_id, 1])
    collected = gc.collect(object_store, keep=1, grace=NOW)
    assert collected.checkpoints == [f"{done.run_id}/9"]
    assert len(registry.list_checkpoints(object_store)) == 5
    for entry in registry.list_checkpoints(object_store):
        assert snapshots.verify(object_store, entry.snapshot) == []
    with pytest.raises(UsageError, match="would delete every checkpoint"):
        gc.collect(object_store, keep=0)


def test_the_best_of_each_run_is_spared_too_when_asked(object_store: ObjectStore) -> None:
    runs_ = [a_run(object_store) for _ in range(2)]
    for spec in runs_:
        for step in (1, 2, 3):
            checkpoint(object_store, spec, step)
    for step, error, full in ((1, 0.1, False), (2, 0.3, True), (3, 0.5, True)):  # what is best was evaluated in full
        found = evaluation({"a": error}, full=full, still=0.01)
        registry.add_metrics(object_store, runs_[0].run_id, step, found.metrics(), found)
    gone = gc.collect(object_store, keep=1, keep_best=True, grace=NOW).checkpoints
    assert sorted(gone) == sorted([f"{runs_[0].run_id}/1", *(f"{runs_[1].run_id}/{step}" for step in (1, 2))])


def test_a_live_run_keeps_what_it_has_not_registered_yet() -> None:
    store = FakeStore()
    spec = a_run(store, "running")
    ref = push(store, {"a": "b"}, spec.run_id, "checkpoint")
    gc.collect(store, grace=NOW)
    assert snapshots.verify(store, ref) == []


@pytest.mark.parametrize("status", ["running", "stopped", "failed"])
def test_what_a_run_can_be_continued_from_stays_until_it_is_replaced_or_the_run_is_done(status: str) -> None:
    store = FakeStore()
    spec = a_run(store, status)
    points = []
    for step in (1, 2):
        ref = push(store, {"frozen": "a", "moments": str(step)}, resume_points.snapshot_name(spec.run_id), "checkpoint")
        points.append(resume_points.ResumePoint(step=step, snapshot=ref))
        resume_points.move(store, spec.run_id, points[-1])
    assert gc.collect(store, grace=NOW).snapshots == [points[0].snapshot]
    assert resume_points.read(store, spec.run_id) == points[1]
    assert snapshots.verify(store, points[1].snapshot) == []
    resume_points.forget(store, spec.run_id)
    assert gc.collect(store, grace=NOW).snapshots == [points[1].snapshot]
    assert not list(store.list(BLOBS))


def test_a_run_is_never_said_to_continue_from_what_is_gone() -> None:
    store = FakeStore()
    spec = a_run(store, "running")
    ref = push(store, {"moments": "1"}, resume_points.snapshot_name(spec.run_id), "checkpoint")
    for found in list(store.list(BLOBS)):
        store.delete(found.key)
    with pytest.raises(StoreError, match="lacks moments"):
        resume_points.move(store, spec.run_id, resume_points.ResumePoint(step=1, snapshot=ref))
    assert resume_points.read(store, spec.run_id) is None


def test_an_intent_protects_what_does_not_exist_yet_until_it_expires() -> None:
    store = FakeStore()
    store.write_bytes("blobs/sha256/aa/aa", b"x")
    store.write_json("gc/intents/killed.json", {"keys": ["blobs/sha256/aa/aa"]})
    age(store, timedelta(days=6))
    gc.collect(store)
    assert store.exists("blobs/sha256/aa/aa")
    age(store, timedelta(days=2))
    gc.collect(store)
    assert not store.exists("blobs/sha256/aa/aa")
    assert not store.objects


def test_a_collection_right_before_the_write_that_refers() -> None:
    """The worst moment: the writer has found that everything exists, and has said so to nobody but in its intent."""

    class Collecting(FakeStore):
        before: tuple[str, ...] = ()

        def write_bytes(self, key: str, content: bytes, *, if_absent: bool = False) -> bool:
            if key.startswith(self.before):
                self.before = ()
                gc.collect(self, keep=1, grace=NOW)
            return super().write_bytes(key, content, if_absent=if_absent)

    store = Collecting()
    spec = a_run(store)
    unused = push(store, {"a": "content"}, spec.run_id, "checkpoint")  # garbage, until it is pushed again
    store.before = (manifest_key(unused),)
    assert push(store, {"a": "content"}, spec.run_id, "checkpoint") == unused
    assert store.before == ()
    assert snapshots.verify(store, unused) == []

    push(store, {"a": "content", "b": "more"}, "data")
    push(store, {"a": "another"}, "data")  # and the first is garbage
    store.before = ("snapshots/model/",)
    assert snapshots.verify(store, push(store, {"b": "more"}, "new", "model")) == []  # of a garbage blob

    entry = CheckpointEntry(run_id=spec.run_id, step=1, snapshot=unused, spec=spec)
    push(store, {"a": "content"}, spec.run_id, "checkpoint")
    store.before = (entry.key,)
    registry.register(store, entry)
    assert snapshots.verify(store, unused) == []

    checkpoint(store, spec, 2)
    store.before = ("aliases/good",)
    registry.set_alias(store, "good", entry)
    assert registry.resolve(store, "good").snapshot == unused
    assert snapshots.verify(store, unused) == []

    registry.remove_alias(store, "good")
    store.before = (entry.key,)
    registry.add_metrics(store, spec.run_id, 1, {"loss": 1.0})
    assert snapshots.verify(store, registry.resolve(store, entry.name).snapshot) == []


def test_a_writer_right_after_the_roots_were_read() -> None:
    """The collector's worst moment: it has made up its mind, and now somebody comes to need its garbage."""
    writers: list[threading.Thread] = []
    refs: list[SnapshotRef] = []

    class Arriving(FakeStore):
        def list(self, prefix: str) -> Iterator[ObjectInfo]:
            found = super().list(prefix)
            deciding = any(key.startswith(gc_barrier.SWEEPS) for key in self.objects)
            if prefix == SNAPSHOTS and deciding and not writers:
                writer = threading.Thread(target=lambda: refs.append(push(self, {"a": "garbage"}, "new")))
                writers.append(writer)
                writer.start()
                writer.join(0.5)
            return found

    store = Arriving()
    push(store, {"a": "garbage"}, "data")
    push(store, {"a": "newer"}, "data")
    assert gc.collect(store, grace=NOW).blobs == 1
    writers[0].join()
    assert snapshots.verify(store, refs[0]) == []


def test_a_writer_whose_intent_expired_starts_over(tmp_path: Path) -> None:
    class Slow(FakeStore):
        loads = 0

        def put_file(self, path: Path, key: str, **options: object) -> None:  # pyrefly: ignore
            super().put_file(path, key, **options)  # pyrefly: ignore
            self.loads += 1
            if self.loads == 1:  # a week passes, and a collection
                age(self, timedelta(days=8))
                gc.collect(self)
                assert not self.exists(key)

    store = Slow()
    (tmp_path / "a").write_text("content")
    ref = snapshots.push(store, tmp_path, "dataset", "a").ref
    assert snapshots.verify(store, ref) == []
    assert store.loads == 2


def test_a_writer_waits_for_a_sweep_that_goes_on_but_not_for_a_dead_one() -> None:
    store = FakeStore()
    sweep = gc_barrier.Sweep(store)
    inside = threading.Event()

    def write() -> None:
        with gc_barrier.relying_on(store, ["blobs/x"]):
            inside.set()

    writer = threading.Thread(target=write)
    writer.start()
    assert not inside.wait(0.5)
    sweep.end()
    assert inside.wait(PATIENCE)
    writer.join()
    gc_barrier.Sweep(store)  # never ended: its process was killed
    age(store, gc_barrier.SWEEP_VALID + timedelta(seconds=1), gc_barrier.SWEEPS)
    inside.clear()
    write()
    assert inside.is_set()


def test_a_collection_that_was_suspended_deletes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    store = FakeStore()
    push(store, {"a": "old"}, "data")
    push(store, {"a": "new"}, "data")
    before = {key for key in store.objects if not key.startswith("gc/")}
    clocks, delete = gc_barrier._clocks, gc_barrier.Sweep.delete

    def sleep_and_delete(sweep: gc_barrier.Sweep, key: str) -> None:
        """The machine sleeps between the plan and the first delete."""
        monkeypatch.setattr(gc_barrier, "_clocks", lambda: tuple(clock + 3600 for clock in clocks()))
        delete(sweep, key)

    monkeypatch.setattr(gc_barrier.Sweep, "delete", sleep_and_delete)
    with pytest.raises(StoreError, match="interrupted for too long"):
        gc.collect(store, grace=NOW)
    assert {key for key in store.objects if not key.startswith("gc/")} == before


@pytest.mark.parametrize("damage", ["manifest", "entry", "alias", "no manifest", "spec", "state", "resume", "intent"])
def test_what_cannot_be_read_keeps_whatever_it_may_need(damage: str) -> None:
    store = FakeStore()
    used = push(store, {"a": "used"}, "used")
    spec = a_spec([used])
    runs.write_spec(store, spec)
    runs.write_state(store, spec.run_id, runs.RunState(status="done"))
    entries = [checkpoint(store, spec, step) for step in (1, 2)]
    ref = push(store, {"moments": "1"}, resume_points.snapshot_name(spec.run_id), "checkpoint")
    resume_points.move(store, spec.run_id, resume_points.ResumePoint(step=1, snapshot=ref))
    push(store, {"a": "newer"}, "used")
    push(store, {"a": "old"}, "data")
    push(store, {"a": "new"}, "data")
    keys = {
        "entry": entries[0].key,
        "alias": "aliases/latest.json",
        "spec": f"runs/{spec.run_id}/spec.json",
        "state": f"runs/{spec.run_id}/state.json",
        "resume": f"runs/{spec.run_id}/resume.json",
        "intent": "gc/intents/someone.json",
    }
    key = keys.get(damage, manifest_key(entries[1].snapshot))
    if damage == "no manifest":
        store.delete(key)
    else:
        store.write_bytes(key, b'{"files": [')
    before = {key for key in store.objects if not key.startswith("gc/")}

    collected = gc.collect(store, keep=1, grace=NOW)
    assert [error.key for error in collected.damage] == [key]
    gone = before - store.objects.keys()
    # What has nothing to do with it goes where no blob is in doubt: the old dataset, and the first checkpoint.
    assert {ref.name for ref in collected.snapshots} >= ({"data"} if damage not in ("intent", "spec") else set())
    assert bool(collected.withheld) == (damage in ("manifest", "no manifest", "alias", "intent"))
    if damage in ("manifest", "no manifest", "intent"):
        assert not [key for key in gone if key.startswith(BLOBS)]
    if damage in ("alias", "intent", "entry", "state", "spec"):
        assert snapshots.verify(store, entries[0].snapshot) == []
    for kept in (used, ref, *([entries[1].snapshot] if "manifest" not in damage else [])):
        assert snapshots.verify(store, kept) == []


def test_a_crash_half_way_leaves_nothing_broken() -> None:
    class Crashing(FakeStore):
        left = 1 << 30

        def delete(self, key: str) -> None:
            if not key.startswith("gc/"):
                self.left -= 1
                if self.left < 0:
                    raise StoreError("killed")
            super().delete(key)

    for deletes in range(1, 9):
        store = Crashing()
        spec = a_run(store)
        for step in (1, 2, 3):
            checkpoint(store, spec, step)
        push(store, {"a": "old"}, "data")
        push(store, {"a": "new"}, "data")
        store.left = deletes
        try:
            gc.collect(store, keep=1, grace=NOW)
        except StoreError:
            for info in snapshots.list_snapshots(store):
                assert snapshots.verify(store, info.ref) == []
            for entry in registry.list_checkpoints(store):
                assert snapshots.verify(store, entry.snapshot) == []
        else:
            assert deletes >= 8  # two entries, three manifests, three blobs
            break


def test_writers_and_collectors_at_the_same_moment() -> None:
    """Contents are garbage again and again, just when others push them once more; requests mix in random order."""

    class Slow(FakeStore):
        def write_bytes(self, key: str, content: bytes, *, if_absent: bool = False) -> bool:
            if key.startswith("snapshots/"):  # all blobs are there; now a writer that is slow to say so
                time.sleep(random.uniform(0, 0.2))
            return super().write_bytes(key, content, if_absent=if_absent)

    store = Slow(jitter=0.002)
    began = time.monotonic()
    contents = {str(i): f"content {i}" for i in range(10)}
    written, collected = Counter(dict.fromkeys(range(3), 0)), Counter[int]()

    def going_on() -> bool:
        seconds, enough = time.monotonic() - began, min(written.values()) > 1 and collected.total() > 2
        return seconds < (2.5 if enough else PATIENCE)

    def write(writer: int) -> None:
        while going_on():
            name = f"writer-{writer}"
            # The same blobs under a name's new snapshot; what it replaces becomes garbage.
            ref = push(store, {**contents, "own": f"{writer} {written[writer]}"}, name)
            assert snapshots.verify(store, ref) == []
            assert snapshots.latest(store, "dataset", name) == ref
            # Nobody refers to the common contents while all writers are here.
            push(store, {"own": f"{writer} {written[writer]}"}, name)
            written[writer] += 1

    def collect(collector: int) -> None:
        while going_on():
            try:
                collected[collector] += gc.collect(store, grace=NOW).blobs
            except StoreError as error:  # a busy machine stood still for longer than a sweep may be used
                assert "interrupted for too long" in error.message
            time.sleep(random.uniform(0, 0.3))

    with ThreadPoolExecutor(5) as pool:
        parts = [*(pool.submit(write, i) for i in range(3)), *(pool.submit(collect, i) for i in range(2))]
        for part in parts:
            part.result()
    assert min(written.values()) > 1 and collected.total() > 2
