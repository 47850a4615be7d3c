"""One contract: the store's tests run against a real S3 server and against a folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trainer.config.finetune_config import FinetuneConfig
from trainer.config.run_spec import RunSpec, SnapshotRef, WandbSpec, new_run_id
from trainer.store.folder import FolderStore
from trainer.store.object_store import ObjectStore
from trainer.store.s3 import S3Store


@pytest.fixture(params=["s3", "folder"])
def object_store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ObjectStore:
    """An empty store of each kind."""
    if request.param == "s3":
        return S3Store(request.getfixturevalue("s3_settings"))
    store = FolderStore(tmp_path_factory.mktemp("folder") / "store")
    store.create()
    return store


def variables_of(store: ObjectStore) -> dict[str, str]:
    """The variables that name ``store`` for another process."""
    if isinstance(store, S3Store):
        return store.settings.to_environ()
    assert isinstance(store, FolderStore)
    return {"PIPPA_HOME": str(store.root.parent), "PIPPA_S3_ENDPOINT": ""}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small folder with everything that is odd: empty and large files, strange names, links to files."""
    root = tmp_path / "tree"
    (root / "videos" / "chunk-000").mkdir(parents=True)
    (root / "meta").mkdir()
    (root / "empty").write_bytes(b"")
    (root / "meta" / "info.json").write_text('{"fps": 20}')
    (root / "videos" / "chunk-000" / "a b\n%2F+ü'\"\\.mp4").write_bytes(os.urandom(3000))
    (root / "same").write_bytes(b"twice")
    (root / "same again").write_bytes(b"twice")
    (root / ".hidden").write_bytes(b"h")
    (root / "link").symlink_to(root / "same")
    (root / "parts").write_bytes(os.urandom((17 << 20) + 1))  # two parts
    return root


def tree_of(root: Path) -> dict[str, bytes]:
    """Every file's content by path."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def a_spec(datasets: list[SnapshotRef] | None = None, preset: str = "smoke") -> RunSpec:
    """The spec of a run."""
    datasets = datasets or [SnapshotRef(kind="dataset", name="somewhere", digest="0" * 64)]
    return RunSpec(
        run_id=new_run_id(preset),
        preset=preset,
        config=FinetuneConfig(dataset_path=[ref.name for ref in datasets]),
        provenance={},
        datasets=datasets,
        base_model=SnapshotRef(kind="model", name="tiny", digest="0" * 64),
        wandb=WandbSpec(entity="wild-ai", project="pippa", name="n", run_id="r", group="g"),
    )
