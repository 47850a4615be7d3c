"""`<preset>/best` keeps its word: never worse than what it replaces on the same episodes, never without learning."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.evaluations import evaluation
from tests.trainer.store.conftest import a_spec
from trainer.config.run_spec import RunSpec, SnapshotRef
from trainer.store import registry, snapshots
from trainer.store.best import compare_evaluations, may_be_best
from trainer.store.evaluation import Evaluation, mean, merged
from trainer.store.folder import FolderStore
from trainer.store.object_store import ObjectStore

EPISODES = "abcdefg"


def dataset(name: str, digit: str = "d") -> SnapshotRef:
    return SnapshotRef(kind="dataset", name=name, digest=digit * 64)


class History:
    """Checkpoints of one preset, registered and evaluated one after the other."""

    def __init__(self, store: ObjectStore, folder: Path) -> None:
        self.store = store
        self.folder = folder
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text("{}")

    def add(self, found: Evaluation | None, name: str = "own", metrics: dict[str, float] | None = None) -> str:
        spec: RunSpec = a_spec([dataset(name)])
        ref = snapshots.push(self.store, self.folder, "checkpoint", spec.run_id).ref
        entry = registry.CheckpointEntry(run_id=spec.run_id, step=1, snapshot=ref, spec=spec)
        registry.register(self.store, entry)
        registry.add_metrics(self.store, spec.run_id, 1, metrics or (found.metrics() if found else {}), found)
        return entry.name

    @property
    def best(self) -> registry.CheckpointEntry | None:
        target = registry.aliases(self.store).get("smoke/best")
        return registry.resolve(self.store, target) if target else None


@pytest.fixture
def history(object_store: ObjectStore, tmp_path: Path) -> History:
    return History(object_store, tmp_path / "checkpoint")


ERROR = st.sampled_from([0.1, 0.2, 0.4, 0.8, 1.6])
CHECKPOINT = st.tuples(
    st.dictionaries(st.sampled_from(EPISODES), ERROR, min_size=1, max_size=4),
    st.sets(st.sampled_from(EPISODES)),
    st.sampled_from(["own", "own", "other"]),
    st.sampled_from([True, True, True, False]),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(CHECKPOINT, min_size=2, max_size=7))
def test_best_never_gets_worse_on_common_episodes(steps, tmp_path_factory):
    folder = tmp_path_factory.mktemp("history")
    history = History(FolderStore(folder / "store"), folder / "checkpoint")
    champions: dict[str, registry.CheckpointEntry] = {}
    for errors, trained_on, name, full in steps:
        before = history.best
        added = history.add(evaluation(errors, trained_on, dataset=name, full=full), name)
        after = history.best
        assert after is None or may_be_best(after)
        if after is None or after.name != added:
            assert (before and before.name) == (after and after.name)
            continue
        # Against the best of its dataset, also where another dataset's stood in between.
        old = champions.get(name)
        if old is not None and old.evaluation and after.evaluation:
            found = compare_evaluations(after.evaluation, old.evaluation)
            assert found is not None and found.ours < found.theirs
            common = {each.hash: each for each in old.evaluation.episodes}
            unseen = [
                (each.mse, common[each.hash].mse)
                for each in after.evaluation.episodes
                if each.hash in common and not each.trained_on and not common[each.hash].trained_on
            ]
            if unseen:
                assert mean(ours for ours, _ in unseen) < mean(theirs for _, theirs in unseen)
        champions[name] = after


def test_one_that_does_not_beat_holding_still_is_never_best(history):
    history.add(evaluation({"a": 0.9}, still=0.5))
    assert history.best is None
    good = history.add(evaluation({"a": 0.4}, still=0.5))
    assert history.best and history.best.name == good
    assert "1 training episode" in registry.rests_on(history.store, "smoke/best")


def test_an_intermediate_evaluation_decides_nothing(history):
    history.add(evaluation({"a": 0.1}, full=False))
    assert history.best is None


def test_episodes_that_only_one_was_trained_on_are_not_compared(history):
    """The one that has learned an episode by heart is not better at it."""
    old = history.add(evaluation({"a": 0.4, "b": 0.1}, trained_on={"b"}))
    history.add(evaluation({"a": 0.05, "b": 0.2}, trained_on={"a", "b"}))  # on b, which both know, it is worse
    assert history.best and history.best.name == old
    new = history.add(evaluation({"a": 0.3, "b": 0.9}, trained_on={"b"}))  # a is what counts
    assert history.best and history.best.name == new
    assert "1 episode that neither was trained on: 0.3 instead of 0.4" in registry.rests_on(history.store, "smoke/best")


def test_when_the_dataset_grew_the_old_best_is_measured_again_or_stays(history):
    first = history.add(evaluation({"a": 0.3}))
    grown = evaluation({"b": 0.2})
    history.add(grown)
    assert history.best and history.best.name == first  # nothing in common: nobody can tell
    entry = history.best
    assert entry.evaluation is not None
    again = merged(entry.evaluation, evaluation({"b": 0.5}, trained_on=set()))
    assert again.mse == 0.3
    registry.add_metrics(history.store, entry.run_id, 1, {}, again)
    assert registry.resolve(history.store, first).metrics["open_loop_mse"] == 0.3  # its own figures stay
    history.add(grown)
    assert history.best.name == first  # b is of the training of one alone
    registry.add_metrics(history.store, entry.run_id, 1, {}, merged(entry.evaluation, evaluation({"b": 0.5})))
    third = history.add(grown)
    assert history.best.name == third


def test_another_dataset_has_a_best_of_its_own(history):
    first = history.add(evaluation({"a": 0.3}))
    other = history.add(evaluation({"x": 0.6}, dataset="other"), "other")
    assert history.best and history.best.name == other  # what was decided last
    history.add(evaluation({"a": 0.4}))
    assert history.best.name == other  # worse than the best of its dataset
    better = history.add(evaluation({"a": 0.2}))
    assert history.best.name == better
    document = history.store.read_json("aliases/smoke/best.json")
    assert document["of"] == {"own|fourier_gr1_arms_only": better, "other|fourier_gr1_arms_only": other}
    assert first in document["rests_on"]


def test_entries_and_aliases_of_an_earlier_pippa_stay_readable(history):
    old = history.add(None, metrics={"open_loop_mse": 0.5, "action_variance": 2.0})
    entry = registry.resolve(history.store, old)
    document = json.loads(json.dumps(history.store.read_json(entry.key)))
    for added in ("evaluation", "held_out"):
        document.pop(added)
    history.store.write_json(entry.key, document)
    history.store.write_json("aliases/smoke/best.json", {"checkpoint": old, "set": "2026-11-28T00:00:00+00:00"})
    assert history.best and history.best.name == old and history.best.evaluation is None
    worse = history.add(None, metrics={"open_loop_mse": 0.6})
    assert history.best.name == old != worse
    history.add(evaluation({"a": 0.9}))
    assert history.best.name == old  # the same episodes of the same dataset, though not each by itself
    new = history.add(evaluation({"a": 0.9}, trained_on=set()))
    assert history.best.name == new  # held-out episodes, which the old one was never asked
