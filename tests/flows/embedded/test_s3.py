"""The embedded object store, started for real."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil
import pytest

from flows.embedded import s3
from trainer.errors import StoreError
from trainer.store.object_store import ObjectStore


def processes(home: Path) -> list[psutil.Process]:
    """The guard and the server of this home."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.cwd() == str(home / "s3"):
                found.append(process)
    return found


def listening(home: Path) -> set[str]:
    """Addresses they listen on."""
    sockets = [each for process in processes(home) for each in process.net_connections()]
    return {each.laddr.ip for each in sockets if each.status == psutil.CONN_LISTEN}


def test_data_outlives_the_server_and_new_keys_and_ports(tmp_path: Path) -> None:
    with s3.object_store(tmp_path, {}) as first:
        S3Store(first).write_json("kept/document", {"a": 1})
        assert listening(tmp_path) == {"127.0.0.1"}
        shown = " ".join(part for process in processes(tmp_path) for part in process.cmdline())
        assert "mini" in shown
        assert first.secret_key.get_secret_value() not in shown
    assert listening(tmp_path) == set()
    with s3.object_store(tmp_path, {}) as second:
        assert second.access_key != first.access_key
        assert S3Store(second).read_json("kept/document") == {"a": 1}
        stale_keys = second.model_copy(update={"access_key": first.access_key, "secret_key": first.secret_key})
        with pytest.raises(StoreError, match="with these keys"):
            S3Store(stale_keys).read_json("kept/document")


def test_an_endpoint_in_the_settings_is_used_instead(tmp_path: Path) -> None:
    environ = {
        "PIPPA_S3_ENDPOINT": "http://store.example:9000",
        "PIPPA_S3_ACCESS_KEY": "someone",
        "PIPPA_S3_SECRET_KEY": "something",
    }
    with s3.object_store(tmp_path, environ) as settings:
        assert settings.endpoint == "http://store.example:9000"
    assert list(tmp_path.iterdir()) == []


def test_an_endpoint_without_keys_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No keys"), s3.object_store(tmp_path, {"PIPPA_S3_ENDPOINT": "http://x:1"}):
        pass
