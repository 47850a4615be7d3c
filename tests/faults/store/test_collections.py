"""Garbage collection beside writers, killed in the middle, and as the rule of an active run."""

from __future__ import annotations

import random
import threading
import time
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.faults.store.conftest import Checkpoints
from tests.support.fake_store import FakeStore
from tests.support.waiting import PATIENCE, until
from tests.trainer.store.test_gc import a_run, checkpoint
from trainer.errors import StoreError
from trainer.store import gc, gc_barrier, gc_roots, registry, resume_points, runs, snapshots
from trainer.store.folder import FolderStore
from trainer.store.manifest import BLOBS
from trainer.store.retention import Retention

NOW = timedelta(0)


@pytest.mark.slow
def test_collections_without_a_pause_let_every_writer_through(checkpoints, object_store):
    """Two collectors that begin again at once, for as long as it takes to register 50 checkpoints."""
    runs.write_state(object_store, checkpoints.spec.run_id, runs.RunState(status="running"))
    done, rounds = threading.Event(), []

    def collect() -> None:
        while not done.is_set():
            gc.collect(object_store, keep=1, grace=NOW)
            rounds.append(1)

    collectors = [threading.Thread(target=collect) for _ in range(2)]
    for each in collectors:
        each.start()
    try:
        entries = checkpoints.register(*range(1, 51))
    finally:
        done.set()
        for each in collectors:
            each.join()
    assert len(entries) == 50 and len(rounds) > 2
    assert registry.list_checkpoints(object_store) == entries
    for entry in entries:
        assert snapshots.verify(object_store, entry.snapshot) == []


def test_a_collection_in_the_middle_of_its_deletes_lets_a_writer_through(tmp_path):
    """Thousands of deletes are left when the writer comes; it does not wait for them."""
    garbage, written = 4000, threading.Event()

    class Slow(FakeStore):
        deleted = 0

        def delete(self, key: str) -> None:
            if key.startswith(BLOBS):
                self.deleted += 1
                written.wait(0.05)
            super().delete(key)

    store = Slow()
    for number in range(garbage):
        store.write_bytes(f"{BLOBS}{number:064x}"[: len(BLOBS)] + f"{number % 256:02x}/{number:064x}", b"garbage")
    collector = threading.Thread(target=gc.collect, args=(store,), kwargs={"grace": NOW})
    collector.start()
    until(lambda: store.deleted)
    (tmp_path / "a").write_text("a")
    snapshots.push(store, tmp_path, "dataset", "data")
    assert store.deleted < garbage / 2
    written.set()
    collector.join()
    assert store.deleted == garbage
    assert snapshots.verify(store, snapshots.latest(store, "dataset", "data")) == []  # pyrefly: ignore


def test_a_killed_collection_holds_a_writer_up_until_its_sweep_expires_and_no_longer(tmp_path, monkeypatch):
    assert timedelta(seconds=2 * gc_barrier.DELETE_SECONDS) < gc_barrier.SWEEP_VALID - gc_barrier.SWEEP_USABLE
    assert timedelta(seconds=20) >= gc_barrier.SWEEP_VALID
    monkeypatch.setattr(gc_barrier, "SWEEP_VALID", timedelta(seconds=2))
    store = FolderStore(tmp_path / "store")
    began = time.monotonic()
    gc_barrier.Sweep(store)  # never ended: its process was killed
    with gc_barrier.relying_on(store, ["a"]):
        assert time.monotonic() - began > 1.9
    with gc_barrier.relying_on(store, ["a"]):
        assert time.monotonic() - began < PATIENCE


def _collect(root: Path, started: object) -> None:
    started.set()  # pyrefly: ignore[missing-attribute]
    while True:
        gc.collect(FolderStore(root), keep=1, grace=NOW)


@pytest.mark.slow
def test_a_collection_killed_at_any_moment_leaves_nothing_broken(tmp_path, record_property, monkeypatch):
    monkeypatch.setattr(gc_barrier, "SWEEP_VALID", NOW)  # the next one need not wait: nothing is on its way
    seed = random.randrange(1 << 32)
    record_property("seed", seed)
    draw = random.Random(seed)
    store = FolderStore(tmp_path / "store")
    made = Checkpoints(store, tmp_path / "made")
    context = get_context("fork")
    for turn in range(12):
        made.register(*range(turn * 8 + 1, turn * 8 + 9))
        started = context.Event()
        process = context.Process(target=_collect, args=(store.root, started))
        process.start()
        started.wait()
        time.sleep(draw.uniform(0, 0.08))
        process.kill()
        process.join()
        entries = registry.list_checkpoints(store)
        assert entries[-1].step == turn * 8 + 8
        for entry in entries:
            assert snapshots.verify(store, entry.snapshot) == []
        for name, target in registry.aliases(store).items():
            assert registry.resolve(store, name).name == target
    gc.collect(store, keep=1, grace=NOW)
    assert len(registry.list_checkpoints(store)) == 1


STEPS = st.integers(1, 12)
HISTORY = st.lists(
    st.one_of(
        st.tuples(st.just("register"), st.sampled_from([0, 1]), STEPS),
        st.tuples(st.just("alias"), st.sampled_from([0, 1]), STEPS),
        st.tuples(st.just("resume point"), st.sampled_from([0, 1]), STEPS),
        st.tuples(st.just("thin"), st.sampled_from([0, 1])),
        st.tuples(st.just("interrupted"), st.sampled_from([0, 1]), st.integers(0, 12)),
        st.tuples(st.just("gc")),
    ),
    max_size=20,
)
RULES = st.builds(Retention, st.none() | st.integers(1, 4), st.none() | st.integers(1, 5))


class Interruptible(FakeStore):
    left: int | None = None

    def delete(self, key: str) -> None:
        if self.left is not None and not key.startswith("gc/"):
            self.left -= 1
            if self.left < 0:
                raise StoreError("killed")
        super().delete(key)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(HISTORY, RULES, RULES)
def test_a_run_keeps_what_its_rule_says_and_never_what_others_need(history, first, second):
    """Two running runs with a rule each: what is kept is whole, and what is not kept costs nothing."""
    store = Interruptible()
    specs, rules = [a_run(store, "running"), a_run(store, "running")], (first, second)
    memories = [gc_roots.ReadCache(), gc_roots.ReadCache()]
    registered: list[set[int]] = [set(), set()]
    thinned: list[set[int]] = [set(), set()]
    aliased: set[str] = set()
    points: dict[int, resume_points.ResumePoint] = {}
    for what, *of in [*history, ("thin", 0), ("thin", 1)]:
        run = of[0] if of else 0
        spec = specs[run]
        if what == "register" and of[1] not in registered[run] | thinned[run]:
            checkpoint(store, spec, of[1])
            registered[run].add(of[1])
        elif what == "alias" and of[1] in registered[run]:
            entry = registry.resolve(store, f"{spec.run_id}/{of[1]}")
            registry.set_alias(store, f"good/{run}-{of[1]}", entry)
            aliased.add(entry.name)
        elif what == "resume point":
            ref = _state(store, spec.run_id, of[1])
            points[run] = resume_points.ResumePoint(step=of[1], snapshot=ref)
            resume_points.move(store, spec.run_id, points[run])
        elif what == "interrupted":
            store.left = of[1]
            try:
                gc.thin(store, spec.run_id, rules[run], memories[run])
            except StoreError:
                store.objects = {k: v for k, v in store.objects.items() if not k.startswith(gc_barrier.SWEEPS)}
            store.left = None
        elif what == "thin":
            gc.thin(store, spec.run_id, rules[run], memories[run])
        elif what == "gc":
            gc.collect(store, grace=NOW)
        latest = {registry.aliases(store).get(name) for name in ("latest", "smoke/latest")}
        for each, own in enumerate(registered):
            left = {entry.step for entry in registry.list_checkpoints(store, specs[each].run_id)}
            surplus = rules[each].surplus(own)
            named = {step for step in own if f"{specs[each].run_id}/{step}" in aliased | latest}
            assert own - surplus <= left and named <= left <= own
            if what == "thin" and each == run:
                assert left == (own - surplus) | named
            thinned[each] |= own - left
            registered[each] = left
        for entry in registry.list_checkpoints(store):
            assert snapshots.verify(store, entry.snapshot) == []
        for point in points.values():
            assert snapshots.verify(store, point.snapshot) == []
    for spec in specs:
        runs.write_state(store, spec.run_id, runs.RunState(status="done"))
    gc.collect(store, grace=NOW)
    needed = {entry.snapshot for entry in registry.list_checkpoints(store)} | {p.snapshot for p in points.values()}
    assert {info.ref for info in snapshots.list_snapshots(store)} == needed


def _state(store: FakeStore, run_id: str, step: int):
    from tests.trainer.store.test_gc import push

    return push(store, {"frozen": run_id, "moments": str(step)}, resume_points.snapshot_name(run_id), "checkpoint")


@pytest.mark.parametrize(("last", "every", "kept"), [(2, None, {9, 10}), (None, 5, {5, 10}), (1, 3, {3, 6, 9, 10})])
def test_what_a_rule_keeps(last, every, kept):
    steps = set(range(1, 11))
    assert steps - Retention(last, every).surplus(steps) == kept
    assert Retention().surplus(steps) == set()
