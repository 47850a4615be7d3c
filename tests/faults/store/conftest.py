"""Stores to hurt: each test gets an empty one, on a real S3 server and in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.fake_engine import write
from tests.trainer.store.conftest import a_spec, object_store, variables_of  # noqa: F401 - a fixture
from trainer.config.run_spec import RunSpec
from trainer.store import registry, runs, snapshots
from trainer.store.folder import FolderStore
from trainer.store.object_store import ObjectStore
from trainer.store.registry import CheckpointEntry


class Checkpoints:
    """Registers checkpoints of one run: a frozen shard that all share, and a tuned one each."""

    def __init__(self, store: ObjectStore, folder: Path, spec: RunSpec | None = None) -> None:
        self.store, self.folder = store, folder
        self.spec = spec or a_spec()
        runs.write_spec(store, self.spec)
        runs.write_state(store, self.spec.run_id, runs.RunState(status="done"))

    def push(self, step: int) -> snapshots.PushResult:
        folder = self.folder / self.spec.run_id / f"checkpoint-{step}"
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            write(folder, step)
        origin = {"run_id": self.spec.run_id, "step": str(step)}
        return snapshots.push(self.store, folder, "checkpoint", self.spec.run_id, origin=origin)

    def register(self, *steps: int) -> list[CheckpointEntry]:
        for step in steps:
            entry = CheckpointEntry(run_id=self.spec.run_id, step=step, snapshot=self.push(step).ref, spec=self.spec)
            registry.register(self.store, entry)
        return [registry.resolve(self.store, f"{self.spec.run_id}/{step}") for step in steps]


@pytest.fixture
def checkpoints(object_store: ObjectStore, tmp_path: Path) -> Checkpoints:  # noqa: F811
    return Checkpoints(object_store, tmp_path / "made")


def flip_a_byte(store: ObjectStore, key: str) -> None:
    """The same size, another content, as a disk or somebody else may leave it."""
    content = bytearray(store.read_bytes(key) or b"")
    content[len(content) // 2] ^= 1
    if isinstance(store, FolderStore):
        (store.root / key).write_bytes(content)
    else:
        store.write_bytes(key, bytes(content))
