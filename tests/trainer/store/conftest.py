"""The store's tests run against each server there is: SeaweedFS always, MinIO where it is installed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from flows.embedded.s3 import object_store
from tests.support.waiting import PATIENCE
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.run_spec import RunSpec, SnapshotRef, WandbSpec, new_run_id
from trainer.config.settings import StoreSettings
from trainer.store.client import ObjectStore


@pytest.fixture(scope="session", params=["seaweedfs", "minio"])
def s3_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreSettings]:
    """A real S3 server."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "seaweedfs":
        with object_store(folder, {}) as settings:
            yield settings
        return
    if not shutil.which("minio"):
        pytest.skip("there is no minio program on PATH")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environ = {
        **os.environ,
        "MINIO_ROOT_USER": "minio-user",
        "MINIO_ROOT_PASSWORD": "minio-password",
        "MINIO_BROWSER": "off",
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["minio", "server", "--address", address, str(folder / "data")], env=environ, stdout=log, stderr=log
        )
    try:
        settings = StoreSettings(
            endpoint=f"http://{address}", access_key=SecretStr("minio-user"), secret_key=SecretStr("minio-password")
        )
        ObjectStore(settings, patience=60).ensure_bucket()
        yield settings
    finally:
        process.terminate()
        process.wait(PATIENCE)


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
    return RunSpec(
        run_id=new_run_id(preset),
        preset=preset,
        config=FinetuneConfig(dataset_path=["somewhere"]),
        provenance={},
        datasets=datasets or [],
        base_model=SnapshotRef(kind="model", name="tiny", digest="0" * 64),
        wandb=WandbSpec(entity="wild-ai", project="pippa", name="n", run_id="r", group="g"),
    )
