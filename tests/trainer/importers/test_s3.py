from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.proxy import proxy
from trainer import importers
from trainer.errors import StoreError, UsageError
from trainer.importers.names import S3Prefix
from trainer.importers.s3 import settings_for
from trainer.store import snapshots
from trainer.store.folder import FolderStore
from trainer.store.object_store import ObjectStore
from trainer.store.s3 import S3Store


@pytest.fixture
def lake(buckets, synthetic) -> Iterator[ObjectStore]:
    """Another bucket, with a dataset under a prefix and something else beside it."""
    with buckets.one() as settings:
        bucket = S3Store(settings)
        for file in files(synthetic):
            bucket.write_bytes(f"robots/pick/{file.relative_to(synthetic)}", file.read_bytes())
        bucket.write_bytes("robots/pick-other/README.md", b"another")
        yield bucket


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_prefix_is_brought_once(object_store, lake, synthetic, tmp_path):
    name = f"s3://{lake.settings.bucket}/robots/pick"
    ref = importers.dataset(object_store, name, tmp_path / "work", data_config="fourier_gr1_arms_only")
    (info,) = snapshots.list_snapshots(object_store, "dataset")
    assert ref.name == "pick" and info.files == len(files(synthetic))
    assert (info.origin["s3"], info.origin["endpoint"]) == (name, lake.settings.endpoint)
    assert len(info.origin["revision"]) == 64 and not list((tmp_path / "work").iterdir())
    assert importers.dataset(object_store, name, tmp_path / "work", refresh=True) == ref
    lake.write_bytes("robots/pick/README.md", b"new")
    assert importers.dataset(object_store, name, tmp_path / "work") == ref
    assert importers.dataset(object_store, name, tmp_path / "work", refresh=True) != ref


def test_a_broken_download_is_continued(object_store, lake, tmp_path, monkeypatch):
    fetched: list[str] = []
    whole = ObjectStore.get_file

    def get_file(self: ObjectStore, key: str, path: Path) -> None:
        fetched.append(key)
        if key.endswith(".mp4") and len(fetched) > 0 and broken:
            raise StoreError("the connection broke")
        whole(self, key, path)

    monkeypatch.setattr(ObjectStore, "get_file", get_file)
    monkeypatch.setattr("trainer.importers.s3.DOWNLOADS", 1)
    broken = True
    name = f"s3://{lake.settings.bucket}/robots/pick"
    with pytest.raises(StoreError, match="broke"):
        importers.dataset(object_store, name, tmp_path / "work")
    before, broken = len(fetched), False
    (folder,) = (each for each in (tmp_path / "work").iterdir() if each.is_dir())
    (folder / ".info.json.123.456").write_bytes(b"what a killed download was writing")
    ref = importers.dataset(object_store, name, tmp_path / "work")
    assert [key.rpartition(".")[2] for key in fetched[before:]] == ["mp4"]
    info = next(info for info in snapshots.list_snapshots(object_store, "dataset") if info.ref == ref)
    assert info.files == before


def test_a_content_that_changed_on_the_way_is_refused(object_store, lake, tmp_path, monkeypatch):
    whole = ObjectStore.get_file

    def get_file(self: ObjectStore, key: str, path: Path) -> None:
        whole(self, key, path)
        path.write_bytes(b"?" * path.stat().st_size)

    monkeypatch.setattr(ObjectStore, "get_file", get_file)
    with pytest.raises(StoreError, match="does not arrive as the server lists it"):
        importers.dataset(object_store, f"s3://{lake.settings.bucket}/robots/pick", tmp_path / "work")


def test_nothing_there(object_store, lake, tmp_path):
    with pytest.raises(UsageError, match="There is nothing under"):
        importers.dataset(object_store, f"s3://{lake.settings.bucket}/robots/pi", tmp_path)
    with pytest.raises(StoreError, match="no-such-bucket"):
        importers.dataset(object_store, "s3://no-such-bucket/x", tmp_path)


def test_another_server_gets_its_own_keys_only(s3_server, lake, object_store, tmp_path, monkeypatch):
    source = S3Prefix("lake", "x")
    store, folder = s3_server, FolderStore(tmp_path / "store")
    assert settings_for(source, object_store, {}).access_key == store.access_key
    with pytest.raises(UsageError, match="on which server"):
        settings_for(source, folder, {})
    with pytest.raises(UsageError, match="No keys for s3://lake/x at https://other"):
        settings_for(source, object_store, {"PIPPA_SOURCE_S3_ENDPOINT": "https://other"})
    with pytest.raises(UsageError, match="not the URL"):
        settings_for(source, object_store, {"PIPPA_SOURCE_S3_ENDPOINT": "other"})
    host, port = store.host.split(":")
    with proxy(host, int(port)) as way:
        for name, value in {
            "ENDPOINT": f"http://127.0.0.1:{way.port}",
            "ACCESS_KEY": store.access_key.get_secret_value(),
            "SECRET_KEY": store.secret_key.get_secret_value(),
        }.items():
            monkeypatch.setenv(f"PIPPA_SOURCE_S3_{name}", value)
        for into in (object_store, folder):
            importers.dataset(into, f"s3://{lake.settings.bucket}/robots/pick", tmp_path / "work")
            (info,) = snapshots.list_snapshots(into, "dataset")
            assert info.origin["endpoint"] == f"http://127.0.0.1:{way.port}"
            assert store.secret_key.get_secret_value() not in str(info.origin)
