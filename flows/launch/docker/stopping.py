"""Stopping a container with one signal: a trainer that gets a second one ends without saving."""

from __future__ import annotations

import contextlib
import signal
import time
from datetime import datetime
from typing import Any

import docker
import docker.errors
from docker.models.containers import Container

from flows.launch.docker.docker_client import UNREACHABLE

RETRY_SECONDS = 1.0


def send_stop(container: Container) -> None:
    """SIGTERM to the trainer, unless it got one already: by ``docker stop``, or by a process that was killed since.

    One that is paused is resumed, or it would never get the signal. Raises what docker-py raises.
    """
    container.reload()
    if container.status == "paused":
        container.unpause()
    sent = False
    with contextlib.suppress(docker.errors.APIError, *UNREACHABLE, LookupError, ValueError):  # who can't tell, tells
        sent = stop_sent(container)
    if not sent:
        container.kill(signal="SIGTERM")


def stop_sent(container: Container) -> bool:
    """Whether the container got SIGTERM since it started, by the events that the daemon keeps (the last 256)."""
    client: Any = container.client
    found = client.events(
        since=_seconds(container.attrs["State"]["StartedAt"]),
        # The daemon's clock: it would wait for events until a time that it has not reached.
        until=_seconds(client.info()["SystemTime"]),
        filters={"container": container.id, "event": "kill"},
        decode=True,
    )
    with contextlib.closing(found):
        return any(each["Actor"]["Attributes"].get("signal") == str(int(signal.SIGTERM)) for each in found)


def _seconds(daemon_time: str) -> str:
    """A time of the daemon as its list of events takes it; UTC, to the second, its fraction apart."""
    moment, _, fraction = daemon_time.rstrip("Z").partition(".")
    return f"{int(datetime.fromisoformat(moment + '+00:00').timestamp())}.{fraction:0<9}"


def stop(containers: list[Container], grace: float) -> None:
    """SIGTERM to all, SIGKILL to those still running ``grace`` seconds later; all are removed. Never raises."""
    deadline = time.monotonic() + grace
    for container in containers:
        with contextlib.suppress(docker.errors.APIError, *UNREACHABLE):
            send_stop(container)
    for container in containers:
        _wait(container, deadline)
        with contextlib.suppress(docker.errors.APIError, *UNREACHABLE):
            container.remove(force=True, v=True)


def _wait(container: Container, deadline: float) -> None:
    """Wait for the container's end, through broken connections: none of them shortens its grace period."""
    while (left := deadline - time.monotonic()) > 0:
        try:
            container.wait(timeout=left)
        except docker.errors.APIError:
            return  # it is gone
        except UNREACHABLE:  # or the time is up
            time.sleep(min(left, RETRY_SECONDS))
        else:
            return
