"""A small image whose ``trainer`` only talks, and a launcher of it that leaves nothing on the engine."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import docker.errors
import docker.models.containers
import pytest

from flows.launch import Job, training_job
from flows.launch.docker import placement
from flows.launch.docker.container_handle import ContainerHandle
from flows.launch.docker.launcher import DockerLauncher
from flows.launch.follow import Outcome, follow
from tests.support.waiting import PATIENCE
from trainer.events import Event

CONTEXT = Path(__file__).parents[2] / "support" / "image"


@pytest.fixture(scope="session")
def trainer_image(docker_client: docker.DockerClient) -> Iterator[str]:
    """The tag of the image with the talking trainer."""
    tag = f"pippa-test/trainer:{secrets.token_hex(4)}"
    arguments = {name: os.environ[name] for name in ("PYTHON_IMAGE",) if name in os.environ}
    docker_client.images.build(path=str(CONTEXT), tag=tag, rm=True, buildargs=arguments)
    yield tag
    docker_client.images.remove(tag, force=True)


@dataclass
class Bench:
    """A launcher and jobs of one test; ``clean`` removes whatever they left."""

    client: docker.DockerClient
    home: Path
    environ: dict[str, str]
    run_id: str

    @property
    def launcher(self) -> DockerLauncher:
        return DockerLauncher(self.home, self.environ)

    def job(self, **options: Any) -> Job:
        import json

        job = training_job(self.run_id, "smoke", labels={"flow-run-id": f"flow-of-{self.run_id}"})
        return job.model_copy(update={"arguments": [json.dumps(options)]})

    def start(self, **options: Any) -> ContainerHandle:
        return self.launcher.start(self.job(**options), self.environ)

    def left(self) -> list[docker.models.containers.Container]:
        return self.client.containers.list(all=True, filters={"label": f"pippa.run-id={self.run_id}"})

    def container(self) -> docker.models.containers.Container:
        [found] = self.left()
        found.reload()
        return found


def followed(
    training: ContainerHandle, observe: Callable[[Event], None] = lambda _: None, grace: float = PATIENCE
) -> tuple[Outcome, list[Event]]:
    """Follow to the end; the outcome, and every event."""
    events: list[Event] = []

    def both(event: Event) -> None:
        events.append(event)
        observe(event)

    return follow(training, both, grace), events


@pytest.fixture
def environ(trainer_image: str) -> Mapping[str, str]:
    """What a launcher is given; the store's keys are searched for in what the engine shows."""
    return {
        "PATH": os.environ["PATH"],
        **{name: value for name, value in os.environ.items() if name.startswith("DOCKER_")},
        "PIPPA_TRAINER_IMAGE": trainer_image,
        "PIPPA_GPUS": "none",
        "PIPPA_S3_ENDPOINT": "http://store.example:9000",
        "PIPPA_S3_ACCESS_KEY": "the-access-key-of-the-store",
        "PIPPA_S3_SECRET_KEY": "the-secret-key-of-the-store",
        "PIPPA_S3_BUCKET": "pippa",
        "NETRC": os.devnull,
        "HF_TOKEN_PATH": os.devnull,
    }


@pytest.fixture
def bench(docker_client, environ, tmp_path, monkeypatch) -> Iterator[Bench]:
    """A launcher with a run of this test's own; the volumes are its own too."""
    name = f"test-{secrets.token_hex(4)}"
    volumes = {f"pippa-{name}-cache": f"{placement.HOME}/cache", f"pippa-{name}-runs": f"{placement.HOME}/runs"}
    monkeypatch.setattr(placement, "VOLUMES", volumes)
    bench = Bench(docker_client, tmp_path / "home", dict(environ), f"{name}-20260101-000000-abcd")
    yield bench
    for container in bench.left():
        container.remove(force=True, v=True)
    for volume in volumes:
        try:
            docker_client.volumes.get(volume).remove(force=True)
        except docker.errors.NotFound:
            continue
