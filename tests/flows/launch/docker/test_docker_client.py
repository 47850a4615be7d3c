from __future__ import annotations

import os
import socket

import pytest

from flows.launch.docker import docker_client
from flows.launch.docker.docker_client import connect, is_local
from trainer.errors import PippaError


@pytest.fixture
def on_a_host(monkeypatch):
    monkeypatch.setattr(docker_client, "in_container", lambda: False)


@pytest.fixture
def in_a_container(monkeypatch):
    monkeypatch.setattr(docker_client, "in_container", lambda: True)


def refusal(address: str) -> PippaError:
    with pytest.raises(PippaError) as error:
        connect({"DOCKER_HOST": address})
    return error.value


def test_no_socket_on_a_host(tmp_path, on_a_host):
    error = refusal(f"unix://{tmp_path}/docker.sock")
    assert f"{tmp_path}/docker.sock is missing" in error.message
    assert "systemctl start docker" in error.hint and "--launcher process" in error.hint


def test_no_socket_in_a_container(tmp_path, in_a_container):
    assert f"-v {tmp_path}/docker.sock:" in refusal(f"unix://{tmp_path}/docker.sock").hint


@pytest.fixture
def deaf(tmp_path):
    """A socket that nobody listens on."""
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        yield path


def test_an_engine_that_is_not_running(deaf, on_a_host):
    error = refusal(f"unix://{deaf}")
    assert "does not answer" in error.message and "systemctl start docker" in error.hint


def test_no_permission_on_a_host(deaf, on_a_host, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may use any
    error = refusal(f"unix://{deaf}")
    assert f"(group id {os.getgid()})" in error.message and "usermod -aG" in error.hint


def test_no_permission_in_a_container(deaf, in_a_container, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert f"--group-add {os.getgid()}" in refusal(f"unix://{deaf}").hint


def test_an_engine_elsewhere():
    error = refusal("tcp://127.0.0.1:1")
    assert "DOCKER_HOST" in error.message and "docker version" in error.hint
    assert not is_local("tcp://127.0.0.1:1") and not is_local("ssh://gpu-box") and is_local("unix:///run/docker.sock")
