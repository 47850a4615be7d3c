"""How long lists, names and collections take in a store of many checkpoints: ``python -m bench.registry 10000``.

The checkpoints are made of a few bytes, but of as many objects as real ones: an entry, a manifest, a frozen file that
all of a run share, and two of their own. With ``PIPPA_S3_ENDPOINT`` in the bucket of the settings, which must be empty;
else in a folder that is removed afterwards.
"""

from __future__ import annotations

import hashlib
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from trainer.config.finetune_config import FinetuneConfig
from trainer.config.run_spec import RunSpec, SnapshotRef, WandbSpec, new_run_id
from trainer.store import gc, gc_roots, registry, runs
from trainer.store.check import Check
from trainer.store.manifest import FileRecord, Manifest, blob_key, manifest_key
from trainer.store.object_store import ObjectStore
from trainer.store.parallel import for_each
from trainer.store.registry import CheckpointEntry
from trainer.store.retention import Retention
from trainer.store.stores import open_store

T = TypeVar("T")

RUN_STEPS = 100
"""Checkpoints of each run."""


def main() -> None:
    """Fill the store, then measure."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as home:
        store = open_store({"PIPPA_HOME": home, **{k: v for k, v in os.environ.items() if k.startswith("PIPPA_S3_")}})
        store.create()
        if next(iter(store.list("")), None):
            sys.exit(f"{store.address} is not empty.")
        specs = [_spec(number) for number in range(-(-count // RUN_STEPS))]
        _timed("filling", lambda: for_each(lambda spec: _fill(store, spec), specs, workers=8))
        spec = specs[-1]
        newest = registry.find(store, spec.run_id, RUN_STEPS)
        assert newest is not None
        _timed("list", lambda: registry.list_checkpoints(store))
        _timed("list of one run", lambda: registry.list_checkpoints(store, spec.run_id))
        _timed("latest", lambda: registry.resolve(store, "latest"))
        _timed("newest of a run", lambda: registry.resolve(store, spec.run_id))
        _timed("set an alias", lambda: registry.set_alias(store, "good", newest))
        _timed("register again", lambda: registry.register(store, newest))
        _timed("gc, dry", lambda: gc.collect(store, dry_run=True))
        memory = gc_roots.ReadCache()
        rule = Retention(last=RUN_STEPS)
        _timed("a run's retention, first time", lambda: gc.thin(store, spec.run_id, rule, memory))
        _timed("a run's retention, later", lambda: gc.thin(store, spec.run_id, rule, memory))
        _timed("store check", lambda: Check(store).run())
        found = _timed("gc --keep 50 --delete", lambda: gc.collect(store, keep=50, grace=timedelta(0)))
        assert len(found.checkpoints) >= count // 2 - len(specs)
    _say("most memory", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


def _timed(what: str, work: Callable[[], T]) -> T:
    began = time.perf_counter()
    result = work()
    _say(what, f"{time.perf_counter() - began:.3f} s")
    return result


def _say(what: str, figure: str) -> None:
    sys.stdout.write(f"{what:<32}{figure}\n")
    sys.stdout.flush()


def _spec(number: int) -> RunSpec:
    return RunSpec(
        run_id=new_run_id("smoke", datetime.now(UTC) - timedelta(days=400 - number)),
        preset="smoke",
        config=FinetuneConfig(dataset_path=["data"]),
        provenance={},
        datasets=[SnapshotRef(kind="dataset", name="data", digest="0" * 64)],
        base_model=SnapshotRef(kind="model", name="tiny", digest="0" * 64),
        wandb=WandbSpec(entity="e", project="p", name="n", run_id="r", group="g"),
    )


def _fill(store: ObjectStore, spec: RunSpec) -> None:
    runs.write_spec(store, spec)
    runs.write_state(store, spec.run_id, runs.RunState(status="done"))
    for step in range(1, RUN_STEPS + 1):
        records = [
            _file(store, name, f"{spec.run_id} {name} {'' if name == 'frozen' else step}".encode())
            for name in ("frozen", "tuned", "trainer_state.json")
        ]
        manifest = Manifest.of("checkpoint", spec.run_id, records, {"run_id": spec.run_id, "step": str(step)})
        store.write_json(manifest_key(manifest.ref), manifest.model_dump(mode="json"))
        entry = CheckpointEntry(run_id=spec.run_id, step=step, snapshot=manifest.ref, spec=spec)
        store.write_json(entry.key, entry.model_dump(mode="json"))
    store.write_json("aliases/latest.json", {"checkpoint": f"{spec.run_id}/{RUN_STEPS}"})


def _file(store: ObjectStore, name: str, content: bytes) -> FileRecord:
    sha256 = hashlib.sha256(content).hexdigest()
    if name != "frozen" or not store.exists(blob_key(sha256)):
        store.write_bytes(blob_key(sha256), content)
    return FileRecord(path=name, size=len(content), sha256=sha256)


if __name__ == "__main__":
    main()
