"""What computes on this machine's GPUs: containers, also those that others started.

A lease or a lock says who may compute. A container outlives the process that held it, and keeps computing.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing

import docker
import docker.errors
from docker.models.containers import Container

from flows.launch.docker.container_configuration import GPUS, LABEL
from flows.launch.docker.docker_client import UNREACHABLE, connect
from flows.launch.docker.stopping import stop_sent
from trainer.errors import PippaError


def computing() -> dict[str, list[str]]:
    """The GPUs of each running container that computes, by its run; ``["all"]`` for all of them, none on a processor.

    Empty where no daemon answers.
    """
    try:
        with closing(connect()) as client:
            return {run: _ids(each) for run, each in _containers(client)}
    except (PippaError, docker.errors.APIError, *UNREACHABLE):
        return {}


def goes_on(own: Collection[str]) -> list[str] | None:
    """The GPUs of the container whose run is called one of ``own``; None where none runs, or it is being stopped."""
    try:
        with closing(connect()) as client:
            found = [each for run, each in _containers(client) if run in own]
            return next((_ids(each) for each in found if not stop_sent(each)), None)
    except (PippaError, docker.errors.APIError, *UNREACHABLE):
        return None


def _containers(client: docker.DockerClient) -> list[tuple[str, Container]]:
    found = client.containers.list(filters={"label": f"{LABEL}{GPUS}"}, ignore_removed=True)
    return [(each.labels.get(f"{LABEL}run-id", ""), each) for each in found]


def _ids(container: Container) -> list[str]:
    return [each for each in container.labels[f"{LABEL}{GPUS}"].split(",") if each]
