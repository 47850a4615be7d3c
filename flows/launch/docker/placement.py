"""Where a training container belongs: its network, its mounts and its stack, found from where this process runs.

Without an S3 store the container works in this machine's ``PIPPA_HOME``: store, cache and runs are mounted, and it runs
as the user of this process, to whom all that it writes there then belongs.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import docker
import docker.errors
from docker.models.containers import Container
from docker.types import Mount

from flows.launch.docker.docker_client import in_container
from trainer.config.settings import pippa_home
from trainer.errors import UsageError
from trainer.store.stores import store_folder

HOME = "/var/lib/pippa"
"""``PIPPA_HOME`` in every image of pippa."""
VOLUMES = {"pippa_cache": f"{HOME}/cache", "pippa_runs": f"{HOME}/runs"}
"""On a bare host; the names are those that ``compose.yaml`` gives its volumes, so both share what was fetched."""
CONTROL_NETWORK = "control"
"""The network of ``compose.yaml`` on which flows reach Prefect's server; a training has no business there."""
_OWN_FILES = ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf")
_CONTAINER_ID = re.compile(r"/containers/([0-9a-f]{64})/")
_LOOPBACK = re.compile(r"localhost|127(\.\d+){3}|::1|0\.0\.0\.0")


@dataclass(frozen=True)
class Placement:
    """What a container takes over from its surroundings."""

    network: str
    """The network mode: ``host``, ``bridge``, ``container:<id>`` or a network's name."""
    networks: tuple[str, ...]
    """Further networks to join."""
    mounts: tuple[Mount, ...]
    home: str
    """``PIPPA_HOME`` inside."""
    project: str
    """The compose project of this process; empty on a bare host. Reapers keep to their own."""
    user: str = ""
    """``uid:gid`` to run as; empty for the image's own user."""
    store: str = ""
    """The folder that is the object store, as this process has it; empty where that is an S3 server."""


def find_placement(client: docker.DockerClient, environ: Mapping[str, str], *, local: bool = True) -> Placement:
    """The surroundings of this process, for a container beside it that must reach the same object store.

    ``local`` says whether the daemon runs on this machine. Raises ``UsageError`` for a store that no container of the
    daemon can reach.
    """
    own = own_container(client)
    if not environ.get("PIPPA_S3_ENDPOINT"):
        return _beside_folder(client, own, environ, local=local)
    endpoint = urlsplit(environ["PIPPA_S3_ENDPOINT"])
    loopback = bool(_LOOPBACK.fullmatch(endpoint.hostname or ""))
    if own is None:
        if loopback and not local:
            raise UsageError(
                f"The object store {endpoint.geturl()} is on this machine's loopback, where containers of a Docker "
                "daemon on another machine can't reach it.",
                "Set PIPPA_S3_ENDPOINT to a store that both machines reach.",
            )
        mounts = tuple(_volume(name, target) for name, target in VOLUMES.items())
        # A store on loopback is reached only from the host's own network.
        return Placement("host" if loopback else "bridge", (), mounts, HOME, "")
    home = environ.get("PIPPA_HOME") or HOME
    project = _project(own)
    mode = own.attrs["HostConfig"]["NetworkMode"]
    if loopback and mode != "host":
        # The store runs in this very container: the other one shares its network.
        return Placement(f"container:{own.id}", (), _mounts_under(own, home), home, project)
    if mode == "host" or mode.startswith("container:"):
        return Placement(mode, (), _mounts_under(own, home), home, project)
    networks = [name for name in own.attrs["NetworkSettings"]["Networks"] if name != f"{project}_{CONTROL_NETWORK}"]
    first, *others = networks or ["bridge"]
    return Placement(first, tuple(others), _mounts_under(own, home), home, project)


def _beside_folder(
    client: docker.DockerClient, own: Container | None, environ: Mapping[str, str], *, local: bool
) -> Placement:
    """The surroundings where the object store is a folder of this machine."""
    home = pippa_home(environ)
    store = store_folder(home)
    endpoint = "Set PIPPA_S3_ENDPOINT to an S3 store that both reach; `docker compose up -d minio` starts one."
    if own is not None:
        mounts = _mounts_under(own, str(home))
        if not any(store.is_relative_to(mount["Target"]) for mount in mounts):
            raise UsageError(
                f"The object store {store} is a folder of this container, where the training's own can't reach it.",
                f"{endpoint} Or mount a volume at {home}.",
            )
        return Placement("bridge", (), mounts, str(home), _project(own), _user(client), str(store))
    if not local:
        raise UsageError(
            f"The object store {store} is a folder of this machine, where containers of a Docker daemon on another "
            "machine can't reach it.",
            endpoint,
        )
    mounts = []
    for folder in (store, home / "cache", home / "runs"):
        folder.mkdir(parents=True, exist_ok=True)
        mounts.append(Mount(f"{HOME}/{folder.name}", str(folder), type="bind"))
    return Placement("bridge", (), tuple(mounts), HOME, "", _user(client), str(store))


def _user(client: docker.DockerClient) -> str:
    """The user of this process as a container knows it. Raises ``UsageError`` where it can't be that user."""
    security = client.info().get("SecurityOptions") or []
    if any("name=rootless" in option for option in security):
        return "0:0"
    if any("name=userns" in option for option in security):
        raise UsageError(
            "The Docker daemon maps its containers' users to others (userns-remap), who may not use the object store "
            "in a folder of yours.",
            "Set PIPPA_S3_ENDPOINT to an S3 store: `docker compose up -d minio` starts one.",
        )
    return f"{os.getuid()}:{os.getgid()}"


def _project(own: Container) -> str:
    return own.labels.get("com.docker.compose.project", "")


def _volume(name: str, target: str) -> Mount:
    """A named volume. Should it not exist yet, it is labelled as compose would: else compose complains about it."""
    project, _, volume = name.partition("_")
    labels = {"com.docker.compose.project": project, "com.docker.compose.volume": volume}
    return Mount(target, name, type="volume", labels=labels)


def own_container(client: docker.DockerClient) -> Container | None:
    """The container of this daemon that this process runs in; None on a host, and in a container of another daemon."""
    for candidate in _own_ids():
        try:
            found = client.containers.get(candidate)
        except docker.errors.NotFound:
            continue
        # The daemon also answers to a prefix of an id and to a name, which a hostname may be by chance.
        if found.id == candidate or found.attrs["Config"]["Hostname"] == candidate:
            return found
    return None


def _own_ids(mountinfo: Path = Path("/proc/self/mountinfo")) -> list[str]:
    """What this container may be called, best first; empty on a host."""
    found: list[str] = []
    try:
        lines = mountinfo.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        fields = line.split()
        # Docker mounts these three from the container's own folder; a host sees the folder, but mounted elsewhere.
        if len(fields) > 4 and fields[4] in _OWN_FILES and (match := _CONTAINER_ID.search(fields[3])):
            found.append(match[1])
    if in_container():
        found.append(socket.gethostname())
    return list(dict.fromkeys(found))


def _mounts_under(own: Container, home: str) -> tuple[Mount, ...]:
    """What this container has mounted under its ``PIPPA_HOME``, for the same place in another one."""
    return tuple(
        Mount(
            each["Destination"],
            each["Name"] if each["Type"] == "volume" else each["Source"],
            type=each["Type"],
            read_only=not each.get("RW", True),
        )
        for each in own.attrs["Mounts"]
        if each["Type"] in ("volume", "bind") and PurePosixPath(each["Destination"]).is_relative_to(home)
    )
