"""The embedded object store, started for real."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from flows.embedded import s3
from trainer.errors import StoreError
from trainer.store.client import ObjectStore


def listening(home: Path) -> set[str]:
    """Addresses the processes of this home listen on."""
    addresses = set()
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(home / "s3"):
                addresses |= {each.laddr.ip for each in process.net_connections() if each.status == psutil.CONN_LISTEN}
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return addresses


def test_data_outlives_the_server_and_new_keys_and_ports(tmp_path: Path) -> None:
    with s3.object_store(tmp_path, {}) as first:
        ObjectStore(first).write_json("kept/document", {"a": 1})
        assert listening(tmp_path) == {"127.0.0.1"}
        pids = {
            p.pid for p in psutil.process_iter() if str(first.secret_key.get_secret_value()) in " ".join(p.cmdline())
        }
        assert not pids, "a secret on a command line"
    assert listening(tmp_path) == set()
    with s3.object_store(tmp_path, {}) as second:
        assert second.access_key != first.access_key
        assert ObjectStore(second).read_json("kept/document") == {"a": 1}
        stale_keys = second.model_copy(update={"access_key": first.access_key, "secret_key": first.secret_key})
        with pytest.raises(StoreError, match="with these keys"):
            ObjectStore(stale_keys).read_json("kept/document")


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
