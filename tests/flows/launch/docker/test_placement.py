from __future__ import annotations

import json
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker.models.containers import Container

from flows.launch.docker import placement
from flows.launch.docker.container_configuration import SCRATCH
from flows.launch.docker.placement import find_placement, own_container
from tests.flows.launch.conftest import Bench
from tests.support.waiting import PATIENCE, until
from trainer.errors import UsageError

ROOT = Path(__file__).parents[4]
ID = "0123456789abcdef" * 4
SCRIPT = """\
import json, os, sys, docker
from pathlib import Path
from flows.launch import Job
from flows.launch.docker.launcher import DockerLauncher
from flows.launch.docker.placement import find_placement, own_container
client = docker.from_env()
loopback = find_placement(client, {**os.environ, "PIPPA_S3_ENDPOINT": "http://127.0.0.1:8333"})
print(json.dumps([own_container(client).id, loopback.network]), flush=True)
if len(sys.argv) > 1:
    training = DockerLauncher(Path("/tmp/home")).start(Job.model_validate_json(sys.argv[1]), os.environ)
    while training.exit_code is None:
        if event := training.next_event(0.2):
            print(event.model_dump_json(), flush=True)
    training.kill()
"""


def test_a_container_is_known_by_its_own_files_and_a_host_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(placement, "in_container", lambda: False)
    table = tmp_path / "mountinfo"
    table.write_text(f"1 2 254:1 /var/lib/docker/containers/{ID}/hostname /etc/hostname rw - ext4 /dev/vda rw\n")
    assert placement._own_ids(table) == [ID]
    # A host sees the folders of its containers, mounted where the daemon keeps them.
    shm = f"/var/lib/docker/containers/{ID}/mounts/shm"
    table.write_text(f"1 2 0:51 / {shm} rw - tmpfs shm rw\n3 2 254:1 {shm} {shm} rw - ext4 /dev/vda rw\n")
    assert placement._own_ids(table) == [] == placement._own_ids(tmp_path / "missing")


class _NoEngine:
    """Nobody asks it on a host."""


@pytest.mark.parametrize(
    ("endpoint", "network"),
    [("http://127.0.0.1:8333", "host"), ("http://localhost:9000", "host"), ("https://s3.example", "bridge")],
)
def test_a_host_lends_its_network_only_where_the_store_is_on_loopback(endpoint, network, monkeypatch):
    monkeypatch.setattr(placement, "_own_ids", list)
    client: Any = _NoEngine()
    found = find_placement(client, {"PIPPA_S3_ENDPOINT": endpoint})
    assert (found.network, found.networks, found.project, found.home) == (network, (), "", "/var/lib/pippa")
    assert [(mount["Source"], mount["Target"]) for mount in found.mounts] == [
        ("pippa_cache", "/var/lib/pippa/cache"),
        ("pippa_runs", "/var/lib/pippa/runs"),
    ]
    if network == "host":
        with pytest.raises(UsageError, match="on another machine"):
            find_placement(client, {"PIPPA_S3_ENDPOINT": endpoint}, local=False)


class _Daemon:
    def __init__(self, *options: str) -> None:
        self._options = list(options)

    def info(self) -> dict[str, Any]:
        return {"SecurityOptions": self._options}


def test_where_the_store_is_a_folder_the_containers_work_in_it_as_this_user(tmp_path, monkeypatch):
    monkeypatch.setattr(placement, "_own_ids", list)
    client: Any = _Daemon("name=seccomp,profile=builtin")
    found = find_placement(client, {"PIPPA_HOME": str(tmp_path)})
    assert [(mount["Type"], mount["Source"], mount["Target"]) for mount in found.mounts] == [
        ("bind", str(tmp_path / name), f"/var/lib/pippa/{name}") for name in ("store", "cache", "runs")
    ]
    assert (found.network, found.home, found.project) == ("bridge", "/var/lib/pippa", "")
    assert (found.user, found.store) == (f"{os.getuid()}:{os.getgid()}", str(tmp_path / "store"))
    rootless: Any = _Daemon("name=rootless")
    assert find_placement(rootless, {"PIPPA_HOME": str(tmp_path)}).user == "0:0"


def test_a_folder_that_no_container_can_use_is_refused_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(placement, "_own_ids", list)
    for client, local, said in (
        (_Daemon(), False, "on another machine"),
        (_Daemon("name=userns"), True, "userns-remap"),
    ):
        daemon: Any = client
        with pytest.raises(UsageError, match=said) as refused:
            find_placement(daemon, {"PIPPA_HOME": str(tmp_path)}, local=local)
        assert "PIPPA_S3_ENDPOINT" in refused.value.hint and "docker compose up -d minio" in refused.value.hint


@pytest.mark.docker
def test_a_hostname_that_is_somebody_elses_name_means_nothing(bench: Bench, monkeypatch):
    bench.start(wait=True)
    name = bench.container().name
    for candidate in (name, str(bench.container().id)[:12], "no-such-container"):
        monkeypatch.setattr(placement, "_own_ids", lambda candidate=candidate: [candidate])
        found = own_container(bench.client)
        assert (found is not None) == (candidate == bench.container().attrs["Config"]["Hostname"])


@pytest.fixture
def outside(bench: Bench) -> Iterator[Any]:
    """Runs ``SCRIPT`` in a container that sees this checkout and the daemon; the container, started."""
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the small image has Python 3.11, and compiled packages are mounted into it")
    name = f"pippa-{bench.run_id}"
    names = [f"{name}-one", f"{name}-two", f"{name}_control"]  # the last one as compose calls that of Prefect
    networks = [bench.client.networks.create(each) for each in names]
    started: list[Container] = []
    variables = {name: value for name, value in bench.environ.items() if name.startswith("PIPPA_")}

    def run(*arguments: str, network: str = networks[0].name or "") -> Container:
        container = bench.client.containers.create(
            bench.environ["PIPPA_TRAINER_IMAGE"],
            ["python3", "-c", SCRIPT, *arguments],
            user="root",
            environment={**variables, "PYTHONPATH": "/src:/site", "PYTHONDONTWRITEBYTECODE": "1"},
            labels={"com.docker.compose.project": name},
            network=network,
            volumes={
                str(ROOT): {"bind": "/src", "mode": "ro"},
                sysconfig.get_paths()["purelib"]: {"bind": "/site", "mode": "ro"},
                "/var/run/docker.sock": {"bind": "/var/run/docker.sock"},
                f"{name}-data": {"bind": "/var/lib/pippa/cache"},
                f"{name}-other": {"bind": "/elsewhere"},
            },
        )
        started.append(container)
        if network != "host":
            for other in networks[1:]:
                other.connect(container)
        container.start()
        return container

    yield run
    for container in [*started, *bench.left()]:
        container.remove(force=True, v=True)
    for network in networks:
        network.remove()
    for which in ("data", "other"):
        bench.client.volumes.get(f"{name}-{which}").remove(force=True)


@pytest.mark.docker
def test_a_container_beside_the_flow_s_has_its_networks_volumes_and_stack(bench: Bench, outside):
    job = bench.job(count=1, wait=True)
    container = outside(job.model_dump_json())

    def runs() -> bool:
        container.reload()
        return container.status == "running"

    until(lambda: b'"progress"' in container.logs(stderr=False), lambda: container.logs().decode(), alive=runs)
    sibling = bench.container()
    name = f"pippa-{bench.run_id}"
    assert sorted(sibling.attrs["NetworkSettings"]["Networks"]) == [f"{name}-one", f"{name}-two"]
    mounts = {mount["Destination"]: mount["Name"] for mount in sibling.attrs["Mounts"]}
    assert {path: mounts[path] for path in mounts if path not in SCRATCH} == {"/var/lib/pippa/cache": f"{name}-data"}
    assert sibling.labels["pippa.project"] == name
    sibling.stop(timeout=int(PATIENCE))
    assert container.wait(timeout=PATIENCE)["StatusCode"] == 0
    identity, network = json.loads(container.logs(stderr=False).splitlines()[0])
    assert identity == container.id and network == f"container:{container.id}"
    assert bench.left() == []


@pytest.mark.docker
def test_a_container_in_the_host_s_network_still_knows_itself(outside):
    """It has the host's name there, which names no container."""
    container = outside(network="host")
    assert container.wait(timeout=PATIENCE)["StatusCode"] == 0, container.logs().decode()
    assert json.loads(container.logs(stderr=False)) == [container.id, "host"]
