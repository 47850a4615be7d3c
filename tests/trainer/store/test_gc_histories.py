"""Garbage collection never takes what is protected, after any history."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.fake_store import FakeStore
from tests.trainer.store.test_gc import NOW, a_run, checkpoint
from trainer.errors import UsageError
from trainer.store import gc, registry, runs, snapshots
from trainer.store.object_store import ObjectStore
from trainer.store.registry import CheckpointEntry

STEPS = st.sampled_from([1, 2, 3])
RUNS = st.sampled_from([0, 1])
HISTORY = st.lists(
    st.one_of(
        st.tuples(st.just("register"), RUNS, STEPS),
        st.tuples(st.just("alias"), RUNS, STEPS, st.sampled_from(["a", "b"])),
        st.tuples(st.just("unalias"), st.sampled_from(["a", "b"])),
        st.tuples(st.just("metrics"), RUNS, STEPS, st.floats(0, 1)),
        st.tuples(st.just("finish"), RUNS),
        st.tuples(st.just("gc"), st.sampled_from([None, 1, 2])),
    ),
    max_size=25,
)


def play(store: ObjectStore, history: list[tuple]) -> None:
    """Carry out a history; after each collection look whether all that is protected is there and intact."""
    specs = [a_run(store, "done"), a_run(store, "running")]
    finished = {specs[0].run_id}
    known: dict[str, CheckpointEntry] = {}

    def existing(run: int, step: int, action: Callable[[CheckpointEntry], object]) -> None:
        if entry := known.get(f"{specs[run].run_id}/{step}"):
            action(entry)

    for event in [*history, ("gc", 1)]:
        match event:
            case "register", run, step:
                # A step registered again after its removal has the same content.
                entry = checkpoint(store, specs[run], step)
                known[entry.name] = entry
            case "alias", run, step, alias:
                existing(run, step, lambda entry, alias=alias: registry.set_alias(store, alias, entry))
            case "unalias", str(alias):
                with contextlib.suppress(UsageError):  # nobody has set it yet
                    registry.remove_alias(store, alias)
            case "metrics", run, step, value:
                existing(
                    run,
                    step,
                    lambda entry, value=value: registry.add_metrics(
                        store, entry.run_id, entry.step, {"open_loop_mse": value}
                    ),
                )
            case "finish", run:
                runs.write_state(store, specs[run].run_id, runs.RunState(status="done"))
                finished.add(specs[run].run_id)
            case "gc", keep:
                aliased = set(registry.aliases(store).values())
                newest: dict[str, int] = {}
                for entry in known.values():
                    newest[entry.run_id] = max(newest.get(entry.run_id, 0), entry.step)
                protected = {
                    name
                    for name, entry in known.items()
                    if keep is None
                    or name in aliased
                    or entry.step == newest[entry.run_id]
                    or entry.run_id not in finished
                }
                removed = gc.collect(store, keep=keep, grace=NOW).checkpoints
                left = {entry.name: entry for entry in registry.list_checkpoints(store)}
                assert left.keys() | set(removed) == known.keys()
                assert protected <= left.keys()
                assert not protected & set(removed)
                for entry in left.values():
                    assert snapshots.verify(store, entry.snapshot) == []
                for alias in aliased:
                    assert registry.resolve(store, alias).name == alias
                known = {name: known[name] for name in left}


@settings(max_examples=60, deadline=None)
@given(HISTORY)
@example([("register", 0, 1), ("register", 0, 2), ("alias", 0, 1, "a"), ("gc", 1), ("unalias", "a"), ("gc", 1)])
@example([("register", 0, 1), ("metrics", 0, 1, 0.5), ("register", 0, 2), ("register", 0, 3), ("gc", 2), ("gc", 1)])
def test_any_history_keeps_what_is_protected(history: list[tuple]) -> None:
    play(FakeStore(), history)


@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HISTORY)
def test_a_history_on_a_real_server(object_store: ObjectStore, history: list[tuple]) -> None:
    for found in list(object_store.list("")):
        object_store.delete(found.key)
    play(object_store, history)
