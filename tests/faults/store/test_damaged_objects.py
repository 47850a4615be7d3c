"""A damaged object is named, hurts nobody else, and heals on the next push of the same content."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time

import pytest

from tests.faults.store.conftest import Checkpoints, flip_a_byte
from tests.support.evaluations import evaluation
from tests.support.fake_engine import write
from trainer.errors import DamagedObjectError
from trainer.events import EvaluationEvent
from trainer.store import fallback, gc_barrier, registry, resume_points, runs, snapshots
from trainer.store.check import Check
from trainer.store.folder import FolderStore
from trainer.store.manifest import blob_key, manifest_key, read_manifest

GARBAGE = {
    "empty": b"",
    "cut": b'{"checkpoint": "smo',
    "binary": bytes(range(256)),
    "another type": b'["a list"]',
    "without fields": b"{}",
    "deep": b"[" * 100_000,
    "a number without end": b'{"step": ' + b"9" * 5000 + b"}",
}
SMALL_OBJECTS = ("alias", "entry", "spec", "state", "manifest", "resume", "intent")


def the_key(kind: str, checkpoints: Checkpoints) -> str:
    run = checkpoints.spec.run_id
    ref = registry.resolve(checkpoints.store, f"{run}/1").snapshot
    return {
        "alias": "aliases/latest.json",
        "entry": f"checkpoints/{run}/1.json",
        "spec": f"runs/{run}/spec.json",
        "state": f"runs/{run}/state.json",
        "manifest": manifest_key(ref),
        "resume": f"runs/{run}/{resume_points.FILE}",
        "intent": f"{gc_barrier.INTENTS}killed.json",
    }[kind]


@pytest.mark.parametrize("kind", SMALL_OBJECTS)
def test_a_damaged_small_object_hurts_no_other_run(checkpoints, object_store, tmp_path, kind):
    """Another run registers, measures and collects; everything is listed but the damaged one, which is named."""
    checkpoints.register(1, 2)
    key = the_key(kind, checkpoints)
    for how, content in GARBAGE.items():
        object_store.write_bytes(key, content)
        other = Checkpoints(object_store, tmp_path / f"other {how}")
        entry = other.register(5)[0]
        registry.add_metrics(object_store, entry.run_id, 5, {registry.BEST_METRIC: 0.5})
        assert registry.resolve(object_store, "latest") == registry.find(object_store, entry.run_id, 5)
        damage: list[DamagedObjectError] = []
        listed = registry.list_checkpoints(object_store, damage=damage)
        listed_runs = runs.list_runs(object_store, damage)
        listed_snapshots = snapshots.list_snapshots(object_store, damage=damage)
        registry.aliases(object_store, damage)
        assert entry.name in [each.name for each in listed] and other.spec in [each.spec for each in listed_runs]
        assert entry.snapshot in [info.ref for info in listed_snapshots]
        # Aliases heal as they move, and nobody lists intents and resume points.
        assert {error.key for error in damage} == ({key} if kind in ("entry", "spec", "state", "manifest") else set())


@pytest.mark.parametrize("kind", SMALL_OBJECTS)
def test_store_check_repairs_what_can_be_and_moves_the_rest_away(checkpoints, object_store, kind):
    entries = checkpoints.register(1, 2)
    key = the_key(kind, checkpoints)
    object_store.write_bytes(key, b"{")
    found = Check(object_store).run()
    assert key in [problem.key for problem in found] and not any(problem.repaired for problem in found)
    assert object_store.read_bytes(key) == b"{"
    again = Check(object_store, repair=True).run()
    if kind == "intent":  # it may be a living writer's; it expires
        assert [problem.repaired for problem in again] == [False]
        return
    assert all(problem.repaired for problem in again)
    assert Check(object_store, contents=True).run() == []
    if kind in ("alias", "entry", "spec"):
        assert registry.resolve(object_store, "latest") == entries[1]
        assert [entry.snapshot for entry in registry.list_checkpoints(object_store)] == [e.snapshot for e in entries]
        assert runs.read_spec(object_store, checkpoints.spec.run_id) == checkpoints.spec
    if kind == "manifest":
        assert [entry.step for entry in registry.list_checkpoints(object_store)] == [2]
        checkpoints.register(1)  # the same files again
        assert snapshots.verify(object_store, entries[0].snapshot) == []


def test_a_repaired_entry_has_its_figures_again(checkpoints, object_store):
    """The loss is in the checkpoint's files, what the run measured in its events, and what came later in the report."""
    run_id = checkpoints.spec.run_id
    folder = checkpoints.folder / run_id / "checkpoint-1"
    folder.parent.mkdir(parents=True)
    write(folder, 1)
    state = folder / "trainer_state.json"
    history = [{"step": 1, "loss": 0.75}, {"step": 1, "train_runtime": 2.0}]
    state.write_text(json.dumps({**json.loads(state.read_text()), "log_history": history}))
    [entry] = checkpoints.register(1)
    first, later = evaluation({"a": 0.5}), evaluation({"a": 0.25})
    told = EvaluationEvent(step=1, metrics=first.metrics(), evaluation=first.model_dump(mode="json"))
    another = told.model_copy(update={"step": 2, "metrics": {"open_loop_mse": 9.0}})
    lines = "".join(f"{event.model_dump_json()}\n" for event in (told, another))
    runs.write_file(object_store, run_id, "events.jsonl", lines.encode())
    for label in ("", "@trajs-1"):
        content = later.model_dump_json().encode()
        runs.write_file(object_store, run_id, f"report/checkpoint-1{label}/evaluation.json", content)
    object_store.write_bytes(entry.key, b"{")
    [problem] = Check(object_store, repair=True).run()
    assert problem.repaired
    restored = registry.resolve(object_store, f"{run_id}/1")
    assert restored.evaluation == later and restored.wandb_run == checkpoints.spec.wandb_run
    assert restored.metrics["open_loop_mse"] == restored.metrics["open_loop_mse@trajs-1"] == 0.25
    assert restored.metrics["loss"] == 0.75
    assert registry.resolve(object_store, f"{entry.spec.preset}/best") == restored


def test_any_byte_of_any_document_may_be_damaged(tmp_path, record_property):
    """50 random mutations: nothing but the named errors, and a later run is never hurt."""
    store = FolderStore(tmp_path / "folder")
    made = Checkpoints(store, tmp_path / "made too")
    made.register(1, 2)
    documents = [found.key for found in store.list("") if not found.key.startswith("blobs/")]
    seed = random.randrange(1 << 32)
    record_property("seed", seed)
    draw = random.Random(seed)
    other = Checkpoints(store, tmp_path / "other")
    for _ in range(50):
        key = draw.choice(documents)
        before = store.read_bytes(key) or b""
        content = bytearray(before)
        for _ in range(draw.randint(1, 3)):
            place = draw.randrange(len(content))
            content[place : place + draw.randint(0, 9)] = draw.randbytes(draw.randint(0, 9))
        store.write_bytes(key, bytes(content))
        damage: list[DamagedObjectError] = []
        for look in (registry.list_checkpoints, runs.list_runs, snapshots.list_snapshots, registry.aliases):
            look(store, damage=damage)
        Check(store).run()
        other.register(3)
        assert registry.find(store, other.spec.run_id, 3)
        store.write_bytes(key, before)
        store.delete(f"checkpoints/{other.spec.run_id}/3.json")


def frozen_blob(checkpoints: Checkpoints, step: int) -> str:
    manifest = read_manifest(
        checkpoints.store, registry.resolve(checkpoints.store, f"{checkpoints.spec.run_id}/{step}").snapshot
    )
    return blob_key(next(file.sha256 for file in manifest.files if file.path == "model-00001-of-00002.safetensors"))


def test_a_byte_flipped_in_the_shared_frozen_shard_heals_with_the_next_checkpoint(checkpoints, object_store):
    entries = checkpoints.register(1, 2, 3)
    flip_a_byte(object_store, frozen_blob(checkpoints, 1))
    assert all(snapshots.verify(object_store, entry.snapshot) for entry in entries)
    pushed = checkpoints.push(4)
    assert pushed.bytes_uploaded > 60_000  # the shard again
    entries += checkpoints.register(4)
    assert not any(snapshots.verify(object_store, entry.snapshot) for entry in entries)
    assert checkpoints.push(5).bytes_uploaded < 60_000


def test_another_run_reads_what_it_reuses_once(checkpoints, object_store, tmp_path, monkeypatch):
    """Nobody vouches for the frozen shard until the run's first checkpoint has read it."""
    checkpoints.register(1)
    time.sleep(1.1)  # this S3 server gives times in seconds
    key = frozen_blob(checkpoints, 1)
    read: list[str] = []
    stream = type(object_store).stream

    def noted(store, key, *rest, **more):
        read.append(key)
        return stream(store, key, *rest, **more)

    monkeypatch.setattr(type(object_store), "stream", noted)
    other = Checkpoints(object_store, tmp_path / "other")
    for step in (1, 2, 3):
        other.push(step)
    assert read.count(key) == 1


def test_the_same_dataset_pushed_again_heals_it_and_a_grown_one_is_not_read(object_store, tmp_path, monkeypatch):
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(5):
        (folder / str(number)).write_bytes(bytes([number]) * 1000)
    ref = snapshots.push(object_store, folder, "dataset", "data").ref
    keys = [blob_key(file.sha256) for file in read_manifest(object_store, ref).files]
    flip_a_byte(object_store, keys[2])
    with pytest.raises(DamagedObjectError, match="2 of data@") as failed:
        snapshots.pull(object_store, ref, tmp_path / "pulled")
    assert failed.value.exit_code == 8 and "data push" in failed.value.hint
    again = snapshots.push(object_store, folder, "dataset", "data")
    assert (again.ref, again.bytes_uploaded) == (ref, 1000)
    assert not list(object_store.list("damaged/"))
    assert (snapshots.pull(object_store, ref, tmp_path / "pulled") / "2").read_bytes() == bytes([2]) * 1000


def test_pull_takes_the_newest_good_one_when_asked_to(checkpoints, object_store, tmp_path):
    entries = checkpoints.register(1, 2, 3)
    skipped: list[str] = []

    def pull(name: str, folder: str) -> str:
        skipped.clear()
        return fallback.pull_newest_good(
            object_store, name, tmp_path / folder, skipped=lambda name, _: skipped.append(name)
        ).name

    tuned = [file.sha256 for file in read_manifest(object_store, entries[2].snapshot).files if "00002-of" in file.path]
    flip_a_byte(object_store, blob_key(tuned[0]))
    assert pull("latest", "a") == entries[1].name and skipped == [entries[2].name]
    assert not list(tmp_path.glob("*.partial"))
    object_store.write_bytes(entries[1].key, b"damaged")
    assert pull(f"{checkpoints.spec.run_id}/2", "b") == entries[0].name
    assert pull(checkpoints.spec.run_id, "c") == entries[0].name
    object_store.write_bytes("aliases/latest.json", b"damaged")
    assert pull("latest", "d") == entries[0].name
    object_store.delete(manifest_key(entries[0].snapshot))
    with pytest.raises(DamagedObjectError, match="Neither"):
        pull("latest", "e")


def test_the_commands_name_what_is_damaged_and_go_on(tmp_path):
    home = tmp_path / "home"
    store = FolderStore(home / "store")
    made = Checkpoints(store, tmp_path / "made")
    made.register(1, 2)
    store.write_bytes(f"checkpoints/{made.spec.run_id}/1.json", b"{")

    def pippa(*words: str) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, "PIPPA_HOME": str(home), "PIPPA_S3_ENDPOINT": ""}
        command = [sys.executable, "-m", "flows.cli", *words]
        return subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)

    listed = pippa("checkpoints", "list")
    assert listed.returncode == 0 and made.spec.run_id in listed.stdout
    assert f"checkpoints/{made.spec.run_id}/1.json" in listed.stderr and "pippa store check --repair" in listed.stderr
    assert pippa("store", "check").returncode == 8
    repaired = pippa("store", "check", "--repair")
    assert repaired.returncode == 0 and "It was restored" in repaired.stdout
    assert "Nothing is damaged" in pippa("store", "check", "--contents").stdout
    for file in read_manifest(store, registry.resolve(store, made.spec.run_id).snapshot).files:
        flip_a_byte(store, blob_key(file.sha256)) if "00002-of" in file.path else None
    assert pippa("checkpoints", "pull", "latest", "policy").returncode == 8
    pulled = pippa("checkpoints", "pull", "latest", "policy", "--fallback")
    assert pulled.returncode == 0 and f"{made.spec.run_id}/1 is in" in pulled.stdout
    assert f"skipped {made.spec.run_id}/2" in pulled.stderr
