"""How the command line finds the compose stack of its checkout."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.compose_discovery import _say_down, adopt


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "stack"
    folder.mkdir()
    for name in ("s3_access_key", "s3_secret_key", "prefect_api_auth_string"):
        (folder / name).write_text(name)
    return tmp_path


@pytest.fixture
def port() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield str(server.getsockname()[1])


def test_a_running_stack_is_used(home: Path, port: str) -> None:
    environ = {"PIPPA_MINIO_PORT": port, "PIPPA_PREFECT_PORT": port}
    assert adopt(home, environ)
    assert environ["PIPPA_S3_ENDPOINT"] == f"http://127.0.0.1:{port}"
    assert Path(environ["PIPPA_S3_SECRET_KEY_FILE"]).read_text() == "s3_secret_key"
    assert environ["PREFECT_API_URL"] == f"http://127.0.0.1:{port}/api"
    assert Path(environ["PREFECT_API_AUTH_STRING_FILE"]).read_text() == "prefect_api_auth_string"


def test_settings_win(home: Path, port: str) -> None:
    environ = {"PIPPA_S3_ENDPOINT": "https://s3.example", "PIPPA_MINIO_PORT": port}
    assert not adopt(home, environ)
    assert environ["PIPPA_S3_ENDPOINT"] == "https://s3.example"
    environ = {"PIPPA_S3_ACCESS_KEY": "mine", "PIPPA_MINIO_PORT": port, "PREFECT_API_URL": "http://other/api"}
    assert adopt(home, environ)
    assert "PIPPA_S3_ACCESS_KEY_FILE" not in environ
    assert environ["PREFECT_API_URL"] == "http://other/api"


@pytest.mark.parametrize(
    "store", [{"PIPPA_S3_ENDPOINT": "https://s3.example"}, {"PIPPA_MINIO_PORT": "1"}], ids=["a-bucket", "down"]
)
def test_its_prefect_is_used_beside_another_store(home: Path, port: str, store: dict[str, str]) -> None:
    environ = {**store, "PIPPA_PREFECT_PORT": port}
    assert not adopt(home, environ)
    assert environ["PREFECT_API_URL"] == f"http://127.0.0.1:{port}/api"
    assert Path(environ["PREFECT_API_AUTH_STRING_FILE"]).read_text() == "prefect_api_auth_string"
    assert environ.get("PIPPA_S3_ENDPOINT") == store.get("PIPPA_S3_ENDPOINT")
    assert "PIPPA_S3_ACCESS_KEY_FILE" not in environ


def test_a_stack_that_is_down_is_mentioned_once(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _say_down.cache_clear()
    environ = {"PIPPA_MINIO_PORT": "1"}
    assert not adopt(home, environ)
    assert not adopt(home, environ)
    assert capsys.readouterr().err.count("docker compose up -d minio") == 1
    assert "PIPPA_S3_ENDPOINT" not in environ


def test_no_stack_no_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    environ: dict[str, str] = {}
    assert not adopt(tmp_path, environ)
    assert environ == {}
    assert capsys.readouterr().err == ""
