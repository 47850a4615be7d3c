"""The checkpoint registry against real servers."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from tests.trainer.store.conftest import a_spec
from trainer.config.run_spec import RunSpec, SnapshotRef
from trainer.errors import DamagedObjectError, StoreError, UsageError
from trainer.store import registry, snapshots
from trainer.store.manifest import blob_key, read_manifest
from trainer.store.object_store import ObjectStore
from trainer.store.registry import CheckpointEntry


def a_snapshot(store: ObjectStore, folder: Path, spec: RunSpec, content: str) -> SnapshotRef:
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_text(content)
    (folder / "config.json").write_text("the same everywhere")
    return snapshots.push(store, folder, "checkpoint", spec.run_id).ref


def entry_of(
    store: ObjectStore, tmp_path: Path, spec: RunSpec, step: int, content: str | None = None
) -> CheckpointEntry:
    ref = a_snapshot(store, tmp_path / "checkpoint", spec, content or f"{spec.run_id} {step}")
    return CheckpointEntry(run_id=spec.run_id, step=step, snapshot=ref, spec=spec)


def test_names_of_checkpoints(object_store: ObjectStore, tmp_path: Path) -> None:
    smoke, blog = a_spec(preset="smoke"), a_spec(preset="blog")
    entries = {}
    for spec, step in ((smoke, 50), (smoke, 100), (blog, 9), (blog, 1000)):
        entries[spec.preset, step] = entry_of(object_store, tmp_path, spec, step)
        registry.register(object_store, entries[spec.preset, step])

    def name(of: str) -> str:
        return registry.resolve(object_store, of).name

    assert name("latest") == f"{blog.run_id}/1000"
    assert name("smoke/latest") == f"{smoke.run_id}/100"
    assert name(smoke.run_id) == f"{smoke.run_id}/100"
    assert name(f"{blog.run_id}/9") == f"{blog.run_id}/9"  # by number: 9 is before 1000
    assert [entry.step for entry in registry.list_checkpoints(object_store, blog.run_id)] == [9, 1000]
    assert len(registry.list_checkpoints(object_store)) == 4
    registry.set_alias(object_store, "demo/good", entries["smoke", 50])
    assert name("demo/good") == f"{smoke.run_id}/50"
    registry.set_alias(object_store, "demo/good", entries["blog", 9])
    assert registry.aliases(object_store)["demo/good"] == f"{blog.run_id}/9"
    registry.remove_alias(object_store, "demo/good")
    assert "demo/good" not in registry.aliases(object_store)
    for wrong, nearest in (("latst", "latest"), ("smoke/latets", "smoke/latest"), (f"{smoke.run_id}/51", "/50")):
        with pytest.raises(UsageError) as caught:
            registry.resolve(object_store, wrong)
        assert "Did you mean" in caught.value.hint
        assert nearest in caught.value.hint


def test_an_entry_holds_its_lineage_and_size(object_store: ObjectStore, tmp_path: Path) -> None:
    entry = entry_of(object_store, tmp_path, a_spec(), 5)
    registry.register(object_store, entry)
    stored = registry.resolve(object_store, entry.name)
    assert stored == entry.model_copy(update={"bytes_total": read_manifest(object_store, entry.snapshot).size})


def test_registering_again_changes_nothing_and_another_content_is_refused(
    object_store: ObjectStore, tmp_path: Path
) -> None:
    spec = a_spec()
    first = entry_of(object_store, tmp_path, spec, 10)
    registry.register(object_store, first)
    registry.add_metrics(object_store, spec.run_id, 10, {"loss": 1.0})
    later = first.model_copy(update={"created": first.created + timedelta(hours=1)})
    registry.register(object_store, later)
    assert registry.resolve(object_store, first.name).created == first.created
    assert registry.resolve(object_store, first.name).metrics == {"loss": 1.0}
    with pytest.raises(StoreError, match="registered already, with another content"):
        registry.register(object_store, entry_of(object_store, tmp_path, spec, 10, "other"))


def test_of_twenty_contents_for_one_step_one_wins(object_store: ObjectStore, tmp_path: Path) -> None:
    spec = a_spec()
    entries = []
    for i in range(20):
        ref = a_snapshot(object_store, tmp_path / "c", spec, f"content {i}")
        entries.append(CheckpointEntry(run_id=spec.run_id, step=7, snapshot=ref, spec=spec))

    def register(entry: CheckpointEntry) -> bool:
        try:
            registry.register(object_store, entry)
        except StoreError as error:
            assert "another content" in error.message
            return False
        return True

    with ThreadPoolExecutor(20) as pool:
        won = list(pool.map(register, entries))
    assert won.count(True) == 1
    winner = entries[won.index(True)]
    assert registry.resolve(object_store, f"{spec.run_id}/7").snapshot == winner.snapshot
    assert registry.resolve(object_store, "latest").snapshot == winner.snapshot


def test_a_checkpoint_with_a_missing_blob_is_not_registered(object_store: ObjectStore, tmp_path: Path) -> None:
    entry = entry_of(object_store, tmp_path, a_spec(), 10)
    file = next(file for file in read_manifest(object_store, entry.snapshot).files if file.path == "config.json")
    object_store.delete(blob_key(file.sha256))
    with pytest.raises(StoreError, match=r"lacks 1 of its 2 files \(config.json"):
        registry.register(object_store, entry)
    assert registry.list_checkpoints(object_store) == []
    assert registry.aliases(object_store) == {}


def test_latest_does_not_move_back_and_best_follows_the_lowest_error(object_store: ObjectStore, tmp_path: Path) -> None:
    spec = a_spec()
    entries = [entry_of(object_store, tmp_path, spec, step) for step in (1, 2, 3)]
    for entry in (entries[0], entries[2], entries[1]):  # 2 comes late
        registry.register(object_store, entry)
    assert registry.aliases(object_store) == {
        "latest": f"{spec.run_id}/3",
        "smoke/latest": f"{spec.run_id}/3",
    }
    for step, error in ((1, 0.5), (3, math.nan), (2, 0.2), (3, 0.3)):
        registry.add_metrics(object_store, spec.run_id, step, {"open_loop_mse": error})
    assert registry.resolve(object_store, "smoke/best").step == 2
    assert registry.resolve(object_store, "smoke/best").metrics == {"open_loop_mse": 0.2}
    with pytest.raises(UsageError, match="no checkpoint"):
        registry.add_metrics(object_store, spec.run_id, 4, {})


def test_metrics_that_are_no_numbers_survive(object_store: ObjectStore, tmp_path: Path) -> None:
    entry = entry_of(object_store, tmp_path, a_spec(), 1)
    registry.register(object_store, entry.model_copy(update={"metrics": {"a": math.nan, "b": math.inf}}))
    metrics = registry.resolve(object_store, entry.name).metrics
    assert math.isnan(metrics["a"])
    assert metrics["b"] == math.inf


@pytest.mark.parametrize(
    "alias", ["latest", "smoke/latest", "smoke/best", "", "A", "a/b/c", "../a", "a b", "/a", "a\n"]
)
def test_aliases_that_are_refused(alias: str) -> None:
    with pytest.raises(UsageError):
        registry.check_alias(alias)
    with pytest.raises(UsageError):
        registry.check_alias(a_spec().run_id)


def test_a_damaged_entry_is_named_and_hurts_no_other(object_store: ObjectStore, tmp_path: Path) -> None:
    spec = a_spec()
    entries = [entry_of(object_store, tmp_path, spec, step) for step in (1, 2)]
    for entry in entries:
        registry.register(object_store, entry)
    object_store.write_json(entries[0].key, {"run_id": spec.run_id})
    damage: list[DamagedObjectError] = []
    assert registry.list_checkpoints(object_store, damage=damage) == [registry.resolve(object_store, spec.run_id)]
    assert damage[0].key == entries[0].key
    with pytest.raises(DamagedObjectError, match=f"{entries[0].name}.* is damaged: step"):
        registry.resolve(object_store, entries[0].name)
