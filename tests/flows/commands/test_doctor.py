"""``pippa doctor``: what a host lacks."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

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
