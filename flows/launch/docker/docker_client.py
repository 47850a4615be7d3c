"""The Docker daemon: reaching it, and saying how to when it can't be reached."""

from __future__ import annotations

import contextlib
import getpass
import grp
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import docker
import docker.errors
import requests
import urllib3
from docker.context import ContextAPI

from trainer.errors import ServerError

REQUEST_SECONDS = 60
_ANOTHER = "something else than a Docker daemon answers there"
UNREACHABLE = (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError)
"""What docker-py lets through when the daemon goes away in the middle."""


def connect(environ: Mapping[str, str] = os.environ) -> docker.DockerClient:
    """A client of the daemon that ``docker`` itself would use: ``DOCKER_HOST``, else the CLI's context.

    Raises ``ServerError`` that says how to get access when no daemon answers.
    """
    address = daemon_address(environ)
    try:
        if environ.get("DOCKER_HOST"):
            client = docker.from_env(environment=dict(environ), timeout=REQUEST_SECONDS)
        else:
            client = docker.DockerClient(base_url=address, timeout=REQUEST_SECONDS)
        if not client.ping():
            raise docker.errors.DockerException(_ANOTHER)
    except (docker.errors.DockerException, *UNREACHABLE) as error:
        raise unreachable(address, error) from error
    return client


def daemon_address(environ: Mapping[str, str] = os.environ) -> str:
    """URL of the daemon."""
    if address := environ.get("DOCKER_HOST"):
        return address
    with contextlib.suppress(Exception):  # a damaged ~/.docker is for the docker command to complain about
        if (context := ContextAPI.get_current_context()) and context.Host:
            return str(context.Host).replace("http+unix://", "unix://")
    return "unix:///var/run/docker.sock"


def is_local(address: str) -> bool:
    """Whether the daemon at ``address`` runs on this machine, as far as an address tells."""
    return urlsplit(address).scheme in ("unix", "http+unix", "npipe")


def is_podman(client: docker.DockerClient) -> bool:
    """Whether Podman answers in Docker's place."""
    parts = client.version().get("Components") or []
    return any("podman" in str(part.get("Name", "")).lower() for part in parts)


def in_container() -> bool:
    """Whether this process runs in a container, of Docker or Podman."""
    return Path("/.dockerenv").exists() or Path("/run/.containerenv").exists()


def unreachable(address: str, error: Exception) -> ServerError:
    """Why the daemon at ``address`` can't be used by this process, and what gives it access."""
    url = urlsplit(address)
    if url.scheme not in ("unix", "http+unix"):
        return ServerError(
            f"The Docker daemon at {address} (DOCKER_HOST) does not answer: {_reason(error)}",
            "Check DOCKER_HOST with `docker version`; without it, this machine's own daemon is used.",
        )
    socket = Path(url.path)
    inside = in_container()
    try:
        status = socket.stat()
    except OSError:
        if inside:
            return ServerError(
                f"There is no Docker daemon in this container: {socket} is missing.",
                f"Mount the host's: `-v {socket}:{socket}`, as compose.yaml does for the worker.",
            )
        return ServerError(
            f"There is no Docker daemon on this machine: {socket} is missing.",
            "Start it (`sudo systemctl start docker`) or install it (https://docs.docker.com/engine/install), name "
            "another one by DOCKER_HOST, or train without: `--launcher process`.",
        )
    if not os.access(socket, os.R_OK | os.W_OK):
        group = _group(status.st_gid)
        cure = (
            f"Add its group to this container: `--group-add {status.st_gid}`, in compose `group_add: "
            f'["{status.st_gid}"]`.'
            if inside
            else f"`sudo usermod -aG {group} $USER`, then log out and in again (or `newgrp {group}`)."
        )
        return ServerError(
            f"The user {_user()} may not use the Docker daemon: {socket} belongs to the group {group} "
            f"(group id {status.st_gid}).",
            cure,
        )
    return ServerError(
        f"The Docker daemon behind {socket} does not answer: {_reason(error)}",
        "Start it: `sudo systemctl start docker`; `docker version` shows when it is there.",
    )


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _user() -> str:
    try:
        return f"{getpass.getuser()} (uid {os.getuid()})"
    except (KeyError, OSError):
        return f"with uid {os.getuid()}"


def _reason(error: Exception) -> str:
    causes = (error, error.__cause__, error.__context__)
    if any(isinstance(each, ValueError | TypeError | KeyError) for each in causes):  # not the JSON it expects
        return _ANOTHER
    return str(error).strip().partition("\n")[0][:300] or type(error).__name__
