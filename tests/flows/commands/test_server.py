"""`pippa server`: Prefect's server as a team has it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from flows.cli import dispatch
from flows.commands.server import server_environment
from flows.prefect_server import UnreachableError, require_server
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE, until
from trainer.errors import UsageError


def test_without_postgres_everything_is_in_pippas_folder(tmp_path):
    environ = server_environment(tmp_path, {})
    assert environ["PREFECT_HOME"] == str(tmp_path / "prefect")
    assert environ["PREFECT_SERVER_UI_STATIC_DIRECTORY"].startswith(str(tmp_path))
    assert environ["PREFECT_SERVER_UI_API_URL"] == "http://127.0.0.1:4200/api"
    assert environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert not any("DATABASE" in name or "AUTH" in name for name in environ)
    assert server_environment(tmp_path, {}, port=4577)["PREFECT_SERVER_UI_API_URL"] == "http://127.0.0.1:4577/api"


def test_postgres_password_and_port_come_from_the_settings(tmp_path):
    (tmp_path / "password").write_text("s3 cret/\n")
    (tmp_path / "auth").write_text("team:secret\n")
    environ = server_environment(
        tmp_path,
        {
            "PIPPA_POSTGRES_HOST": "postgres:5433",
            "PIPPA_POSTGRES_PASSWORD_FILE": str(tmp_path / "password"),
            "PREFECT_API_AUTH_STRING_FILE": str(tmp_path / "auth"),
            "PIPPA_PREFECT_PORT": "4300",
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "true",
        },
    )
    database = {name.removeprefix("PREFECT_SERVER_DATABASE_"): value for name, value in environ.items()}
    assert (database["HOST"], database["PORT"], database["USER"], database["NAME"]) == (
        *("postgres", "5433"),
        *("prefect", "prefect"),
    )
    assert database["PASSWORD"] == "s3 cret/" and database["DRIVER"] == "postgresql+asyncpg"
    assert environ["PREFECT_SERVER_API_AUTH_STRING"] == "team:secret"
    assert environ["PREFECT_SERVER_UI_API_URL"] == "http://127.0.0.1:4300/api"
    assert environ["PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT"] == "true"


def test_postgres_without_a_password_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no password"):
        server_environment(tmp_path, {"PIPPA_POSTGRES_HOST": "postgres"})


@pytest.fixture
def becomes(tmp_path, monkeypatch) -> list[list[str]]:
    """The command of each server that `pippa server` would become."""
    commands: list[list[str]] = []
    monkeypatch.setattr(os, "execve", lambda _, command, __: commands.append(command))
    monkeypatch.setenv("PIPPA_HOME", str(tmp_path))
    for name in ("PREFECT_API_AUTH_STRING", "PREFECT_API_AUTH_STRING_FILE", "PREFECT_SERVER_API_AUTH_STRING"):
        monkeypatch.delenv(name, raising=False)
    return commands


def test_by_default_it_is_this_machines_own(becomes):
    dispatch(["server", "--port", str(free_port())])
    assert becomes[0][becomes[0].index("--host") + 1] == "127.0.0.1"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "my-machine"])
def test_others_reach_it_with_a_password_only(becomes, monkeypatch, tmp_path, host):
    with pytest.raises(UsageError, match="no password") as refused:
        dispatch(["server", "--host", host, "--port", str(free_port())])
    assert "PREFECT_API_AUTH_STRING=user:password" in refused.value.hint and becomes == []
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "team:secret")
    dispatch(["server", "--host", host, "--port", str(free_port())])
    monkeypatch.delenv("PREFECT_SERVER_API_AUTH_STRING")
    (tmp_path / "auth").write_text("team:secret\n")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING_FILE", str(tmp_path / "auth"))
    dispatch(["server", "--host", host, "--port", str(free_port())])
    assert [command[command.index("--host") + 1] for command in becomes] == [host, host]


@pytest.mark.parametrize("host", ["localhost", "::1", "127.0.0.2"])
def test_on_loopback_it_needs_none(becomes, host):
    dispatch(["server", "--host", host, "--port", str(free_port())])
    assert len(becomes) == 1


@pytest.mark.slow
def test_it_answers_asks_for_its_password_shows_its_pages_and_ends(tmp_path):
    port = free_port()
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "PIPPA_HOME": str(tmp_path / "home"),
        "PREFECT_API_AUTH_STRING": "team:secret",
    }
    command = [sys.executable, "-m", "flows.cli", "server", "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environ, cwd=tmp_path, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        until(lambda: _up(f"{url}/api"), (tmp_path / "log").read_text, alive=lambda: process.poll() is None)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{url}/api/admin/version", timeout=PATIENCE)
        page = urllib.request.Request(f"{url}/deployments", headers={"Accept": "text/html"})
        with urllib.request.urlopen(page, timeout=PATIENCE) as answer:
            assert b"<!DOCTYPE html>" in answer.read(100)
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()
    assert b"team:secret" not in (tmp_path / "log").read_bytes()


def _up(url: str) -> bool:
    try:
        return bool(require_server(url, {"PREFECT_API_AUTH_STRING": "team:secret"}))
    except UnreachableError:
        return False
