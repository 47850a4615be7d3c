"""The stack's credentials: given ones are taken, others made once, and only those who should can read them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flows.credentials import CREDENTIALS, parse, write


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    if os.getuid() != 0:  # the service is root, and gives its files away
        monkeypatch.setattr(os, "chown", lambda *_: None)
    (tmp_path / "host").mkdir()
    (tmp_path / "volume").mkdir()
    return tmp_path / "volume", tmp_path / "host"


def contents(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir()}


def test_what_is_not_given_is_made_once(written: tuple[Path, Path]) -> None:
    volume, host = written
    made = write({}, volume, host, (0, 0))
    first = contents(volume)
    assert made == [credential.setting for credential in CREDENTIALS if credential.make]
    assert all(len(first[credential.file]) >= 21 for credential in CREDENTIALS if credential.make)
    assert write({}, volume, host, (0, 0)) == []
    assert contents(volume) == first
    assert contents(host) == {name: first[name] for name in contents(host)}
    assert set(contents(host)) == {
        "s3_access_key",
        "s3_secret_key",
        "prefect_api_auth_string",
        "serve_token",
    }


def test_what_is_given_wins_and_can_be_taken_back(written: tuple[Path, Path]) -> None:
    volume, host = written
    write({"WANDB_API_KEY": "w" * 40, "PIPPA_S3_ACCESS_KEY": "mine"}, volume, host, (0, 0))
    assert contents(volume)["wandb_api_key"] == "w" * 40
    assert contents(host)["s3_access_key"] == "mine"
    write({}, volume, host, (0, 0))
    assert contents(volume)["wandb_api_key"] == ""
    assert contents(host)["s3_access_key"] == "mine"  # data is signed with it


def test_modes_and_owners(written: tuple[Path, Path]) -> None:
    volume, host = written
    write({}, volume, host, (0, 0))
    assert {oct(file.stat().st_mode & 0o777) for file in volume.iterdir()} == {"0o440"}
    assert {oct(file.stat().st_mode & 0o777) for file in host.iterdir()} == {"0o600"}
    assert oct(host.stat().st_mode & 0o777) == "0o700"
    if os.getuid() == 0:
        assert (volume / "postgres_password").stat().st_uid == 999
        assert {file.stat().st_gid for file in volume.iterdir()} == {1000}


def test_lines_are_read_as_compose_writes_them() -> None:
    assert parse("A=b=c d\nEMPTY=\n\nB='quoted'\n") == {"A": "b=c d", "B": "'quoted'"}
