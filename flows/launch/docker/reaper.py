"""Containers that nobody owns: those of cancelled, crashed and finished flow runs whose process could not clean up.

Prefect never stops what a started run launched, and a flow process that is killed leaves its training running on
purpose, so that the restarted flow can follow it. Somebody has to look whether one will come.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import docker
import docker.errors
from docker.models.containers import Container

from flows.launch.docker.container_configuration import LABEL, SCRATCH_LABEL
from flows.launch.docker.stopping import stop


@dataclass(frozen=True)
class Owned:
    """A container of pippa and whose it is."""

    name: str
    run_id: str
    """The run it trains or brings sources for; empty when it belongs to none."""


def stop_container(client: docker.DockerClient, run_id: str, grace: float) -> list[str]:
    """Stop and remove every container of ``run_id`` with its grace period; the names of those there were.

    For a run that was cancelled: its flow does the same where it can, and both may.
    """
    found = [container for container in _containers(client) if _label(container, "run-id") == run_id]
    stop(found, grace)
    return [str(container.name) for container in found]


def reap(
    client: docker.DockerClient, is_live: Callable[[Owned], bool], grace: float, project: str | None = None
) -> list[str]:
    """Stop and remove each container that ``is_live`` denies; the names of those there were.

    ``is_live`` is asked once per container. It must say True for a flow run that is scheduled to continue, and for
    whatever it can't find out. ``project`` limits it to one compose project, so that two stacks on one daemon, and a
    person's own trainings there, leave each other alone.
    """
    found = [
        container
        for container in _containers(client)
        if project in (None, _label(container, "project")) and not is_live(_owned(container))
    ]
    stop(found, grace)
    # Volumes of containers that somebody removed without them: secrets lie in one of each.
    for volume in client.volumes.list(filters={"dangling": True, "label": SCRATCH_LABEL}):
        with contextlib.suppress(docker.errors.APIError):
            volume.remove()
    return [str(container.name) for container in found]


def _containers(client: docker.DockerClient) -> list[Container]:
    # ignore_removed: one may be removed between the daemon's list and the look at it.
    return client.containers.list(all=True, filters={"label": f"{LABEL}role"}, ignore_removed=True)


def _label(container: Container, name: str) -> str:
    return container.labels.get(LABEL + name, "")


def _owned(container: Container) -> Owned:
    return Owned(name=str(container.name), run_id=_label(container, "run-id"))
