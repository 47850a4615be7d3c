"""``pippa doctor``: what a host lacks."""

from __future__ import annotations

import json
import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from flows import cli
from flows.commands import doctor

PARTS = "python|engine|device|PIPPA_HOME|shared memory|object store|git|W&B|hub|Docker|Compose|Prefect|ports".split("|")


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("DOCKER_HOST", "unix:///absent.sock")
    for name in ("PIPPA_HOME", "PIPPA_S3_ENDPOINT", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)


def test_it_looks_at_everything_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "smoke", "--json"]) == 0
    found = {each["part"]: each for each in json.loads(capsys.readouterr().out)}
    assert set(PARTS) <= set(found)
    assert found["Docker"]["state"] == "note" and "/absent.sock" in found["Docker"]["says"] and found["Docker"]["cure"]
    assert list(tmp_path.iterdir()) == []


def test_a_prefect_server_that_is_away_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert cli.main(["doctor"]) == 4
    assert "http://127.0.0.1:9/api does not answer" in capsys.readouterr().out


class Portal(BaseHTTPRequestHandler):
    """What answers everything, as the sign-in page of a hotel's network does."""

    body = b"<html>Sign in</html>"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(self.body)

    do_POST = do_HEAD = do_PUT = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.mark.parametrize("body", [b"<html>Sign in</html>", b"<p>It works", b'{"status": "ok"}', b'"ok"', b"<a/>", b""])
def test_what_answers_in_a_servers_place_is_not_taken_for_it(
    body: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Other", (Portal,), {"body": body})) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        for name, value in {
            **dict.fromkeys(("HF_ENDPOINT", "WANDB_BASE_URL", "PIPPA_S3_ENDPOINT"), url),
            "PREFECT_API_URL": f"{url}/api",
            "DOCKER_HOST": url.replace("http", "tcp"),
            "WANDB_MODE": "online",
            "WANDB_API_KEY": "k" * 40,
            **dict.fromkeys(("PIPPA_S3_ACCESS_KEY", "PIPPA_S3_SECRET_KEY"), "a-key-of-a-test"),
        }.items():
            monkeypatch.setenv(name, value)
        assert cli.main(["doctor", "--json"]) == 4
        server.shutdown()
    found = {each["part"]: each for each in json.loads(capsys.readouterr().out)}
    for part, says in {
        "object store": "does not answer as an S3 store does",
        "W&B": "is not a W&B server",
        "hub": "is not a Hugging Face hub",
        "Docker": "something else than a Docker daemon answers there",
        "Prefect": "is not the API of a Prefect server",
    }.items():
        assert found[part]["state"] != "ok" and says in found[part]["says"] and found[part]["cure"], found[part]


def test_ports_of_the_stack_that_are_taken_are_named() -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = str(busy.getsockname()[1])
        assert f"in use: {port} (PIPPA_MINIO_PORT)" in doctor.ports({"PIPPA_MINIO_PORT": port}).says
    assert doctor.ports({"PIPPA_PREFECT_PORT": "99999"}).state == "problem"


@pytest.mark.parametrize(("version", "state"), [("2.20.0", "note"), ("2.23.1", "ok"), ("v5.1.0", "ok")])
def test_an_old_compose_is_named(version: str, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "docker"
    program.write_text(f"#!/bin/sh\necho {version}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert doctor.compose().state == state
