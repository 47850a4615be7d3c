"""Runs the trainer in a container beside this process, through the Docker daemon's API.

The container outlives the process that started it: the next to start the same job follows it. It is removed as soon
as its end was read, or by the reaper.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import docker
import docker.errors
from docker.models.containers import Container

from flows.launch import Job, Log, log_file
from flows.launch.docker import container_secrets, gpus, images
from flows.launch.docker.container_configuration import LABEL, PREFIX, ContainerConfiguration
from flows.launch.docker.container_handle import ContainerHandle
from flows.launch.docker.docker_client import UNREACHABLE, connect, daemon_address, is_local, unreachable
from flows.launch.docker.placement import Placement, find_placement
from flows.launch.docker.stopping import stop
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.run_spec import Engine
from trainer.errors import ExitCode, PippaError, UsageError

STARTING_SECONDS = 30.0
"""A container that was created and not started within this was left by a process that was killed between the two."""
STORELESS_SECONDS = 30.0
"""What a training whose object store is gone gets to save on its disk."""
ANSWER_SECONDS = 10.0
"""A packet that is lost on the way is sent again after one second, and after three."""
_NOT_A_RESULT = (ExitCode.INTERRUPTED, ExitCode.TERMINATED)


class DockerLauncher:
    """Starts ``trainer …`` in a container named ``pippa-<job name>``; its stderr is kept in a file under ``home``."""

    def __init__(self, home: Path, environ: Mapping[str, str] = os.environ) -> None:
        self._home = home
        self._environ = environ

    @cached_property
    def client(self) -> docker.DockerClient:
        """The daemon's client, made at the first use. Raises ``PippaError`` that says how to reach one."""
        return connect(self._environ)

    def require(self, config: FinetuneConfig, engine: Engine) -> None:  # noqa: ARG002
        """Refuse what the Docker daemon has no devices for. Raises ``UsageError``."""
        gpus.require(self.client.info(), self._environ, config)

    def image(self, engine: Engine, log: Log = lambda _: None) -> str | None:
        """The digest or id of the image of ``engine``, pulled or built if need be."""
        return images.digest(images.ensure_image(self.client, engine, self._environ, log))

    def knows(self, name: str) -> bool:
        """Whether there is a container of the job ``name``, which ``start`` follows or takes the result of."""
        try:
            self.client.containers.get(PREFIX + name)
        except docker.errors.NotFound:
            return False
        except UNREACHABLE as error:
            raise unreachable(daemon_address(self._environ), error) from error
        return True

    def start(self, job: Job, environ: Mapping[str, str]) -> ContainerHandle:
        """Start ``job`` in its container, or follow the one that runs, or take the result of the one that has ended.

        Raises ``PippaError``; then nothing is left.
        """
        container = None
        try:
            while container is None:  # somebody else was faster, and has it started by now or is about to
                container = self._existing(job, environ) or self._create(job, environ)
        except docker.errors.APIError as error:
            raise _refused(job, error) from error
        except UNREACHABLE as error:
            raise unreachable(daemon_address(self._environ), error) from error
        return ContainerHandle(container, log_file(self._home, job))

    def _existing(self, job: Job, environ: Mapping[str, str]) -> Container | None:
        """The container of ``job`` worth following; what is left of an earlier attempt is removed."""
        name = PREFIX + job.name
        while True:
            try:
                found = self.client.containers.get(name)
            except docker.errors.NotFound:
                return None
            state = found.attrs["State"]
            if state["Status"] in ("running", "paused", "restarting"):
                place = self._place(environ)
                if (store := _store(found)) == (environ.get("PIPPA_S3_ENDPOINT") or place.store):
                    return found
                stack = found.labels.get(LABEL + "project", "")
                if stack != place.project or _is_there(store):
                    raise _runs_elsewhere(job, name, store, stack)
                # Its store is gone, so it can't register anything any more. It may save on its disk, and the one that
                # follows continues from there.
                stop([found], STORELESS_SECONDS)
            elif state["Status"] in ("exited", "dead"):
                # Stopped before its end, it is no result, and starting it continues the run.
                if state["ExitCode"] not in _NOT_A_RESULT:
                    return found
                _remove(found)
            elif state["Status"] == "created" and _age(found) > STARTING_SECONDS:
                # Its creator may only be slow: should it start now, it is not removed, and followed.
                _remove(found)
            time.sleep(0.2)  # being started or removed by somebody else

    def _create(self, job: Job, environ: Mapping[str, str]) -> Container | None:
        """A started container; None when one of its name exists already."""
        image = images.ensure_image(self.client, job.engine, self._environ)
        place = self._place(environ)
        secrets = container_secrets.secrets(job, environ)
        certificate = container_secrets.certificates(environ)
        asked = ContainerConfiguration(self.client, self._environ, job, environ, image, place)
        configuration = asked.arguments(secrets)
        if certificate:
            configuration["environment"] |= container_secrets.certificate_variables()
        files = container_secrets.archive(secrets, certificate, asked.owner)
        try:
            return self._started(configuration, place, files)
        except docker.errors.APIError as error:
            if "setting rlimit" not in str(error.explanation):
                raise
        # A rootless daemon, or one that runs in a container, may not lift the limit. It matters where pages are
        # pinned for InfiniBand.
        host = configuration["host_config"]
        host["Ulimits"] = [limit for limit in host["Ulimits"] if limit["Name"] != "memlock"]
        return self._started(configuration, place, files)

    def _place(self, environ: Mapping[str, str]) -> Placement:
        return find_placement(self.client, environ, local=is_local(daemon_address(self._environ)))

    def _started(self, configuration: dict[str, Any], place: Placement, files: bytes) -> Container | None:
        try:
            identity = self.client.api.create_container(**configuration)["Id"]
        except docker.errors.APIError as error:
            if error.status_code == HTTPStatus.CONFLICT:
                return None  # somebody else was faster
            raise
        container = self.client.containers.prepare_model({"Id": identity})
        try:
            for network in place.networks:
                self.client.networks.get(network).connect(container)
            container.put_archive(container_secrets.SECRETS, files)
            container.start()
            container.reload()
        except (docker.errors.APIError, *UNREACHABLE):
            status = _status(container)
            if status is None:
                return None  # somebody took it for abandoned and removed it, and starts one
            if status == "running":
                return container  # only the answer was lost; somebody else may follow it by now
            with contextlib.suppress(docker.errors.APIError, *UNREACHABLE):
                _remove(container)
            raise
        except BaseException:
            with contextlib.suppress(docker.errors.APIError, *UNREACHABLE):
                container.remove(force=True, v=True)
            raise
        return container


def _remove(container: Container) -> None:
    """Remove ``container`` unless it runs, or somebody else does or did."""
    try:
        container.remove(v=True)
    except docker.errors.APIError as error:
        if error.status_code not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
            raise


def _status(container: Container) -> str | None:
    """As the daemon says now: created, running …; None for one that is gone, empty where the daemon is away."""
    try:
        container.reload()
    except docker.errors.NotFound:
        return None
    except (docker.errors.APIError, *UNREACHABLE):
        return ""
    return str(container.status)


def _runs_elsewhere(job: Job, name: str, store: str | None, stack: str) -> UsageError:
    return UsageError(
        f"{job.name} runs already, with the object store {store}, started "
        + (f"by the compose project {stack}." if stack else "outside of compose."),
        f"`docker logs -f {name}` shows it; `docker stop -t 300 {name}` lets it save and end."
        # Within the stack the store has its own name, and there a resume follows the container.
        + (f" `docker compose run --rm worker pippa runs resume {job.name}` follows it." if stack else ""),
    )


def _refused(job: Job, error: docker.errors.APIError) -> PippaError:
    message = str(error.explanation or error)
    return gpus.refusal(message) or PippaError(f"The Docker daemon refused the container of {job.name}: {message}")


def _store(container: Container) -> str | None:
    """The endpoint of its object store, or the folder that is it."""
    variables = dict(each.partition("=")[::2] for each in container.attrs["Config"]["Env"] or [])
    return variables.get("PIPPA_S3_ENDPOINT") or container.labels.get(LABEL + "store")


def _is_there(store: str | None) -> bool:
    """Whether an object store is still there: the folder, or something that listens at the endpoint."""
    url = urlsplit(store or "")
    if not url.scheme:
        return bool(url.path) and Path(url.path).is_dir()
    try:
        address = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
        socket.create_connection(address, ANSWER_SECONDS).close()
    except (OSError, ValueError):
        return False
    return True


def _age(container: Container) -> float:
    """Seconds since the daemon made the container."""
    created = datetime.fromisoformat(container.attrs["Created"][:19] + "+00:00")  # to the second
    return (datetime.now(UTC) - created).total_seconds()
