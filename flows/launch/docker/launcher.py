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
from docker.models.containers import Container
from docker.models.images import Image
from docker.types import LogConfig, Mount, Ulimit
from docker.utils import parse_bytes

from flows.launch import Job, Log, log_file
from flows.launch.docker import container_secrets, gpus, images
from flows.launch.docker.container_handle import ContainerHandle
from flows.launch.docker.docker_client import UNREACHABLE, connect, daemon_address, is_local, unreachable
from flows.launch.docker.placement import Placement, find_placement
from flows.launch.docker.stopping import stop
from flows.settings import stop_grace
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.run_spec import Engine
from trainer.errors import ExitCode, PippaError, UsageError
from trainer.runner import workspace

PREFIX = "pippa-"
LABEL = "pippa."
GPUS = "gpus"
SHM_SIZE = "8g"
"""Batches travel from the loader's workers through shared memory. Eight workers with four batches of 32 samples of two
cameras each, upstream's defaults, are 1.3 GB of float images; 8 GiB has room for more cameras and larger batches. It
is a limit, taken only as it fills."""
SCRATCH = (container_secrets.SECRETS, "/tmp")  # noqa: S108
"""Volumes of one container, writable beside what its placement mounts; all else in it is read-only. On disk and not in
memory, since a training's limit counts what a tmpfs holds."""
SCRATCH_LABEL = f"{LABEL}scratch"
STARTING_SECONDS = 30.0
"""A container that was created and not started within this was left by a process that was killed between the two."""
STORELESS_SECONDS = 30.0
"""What a training whose object store is gone gets to save on its disk."""
ANSWER_SECONDS = 2.0
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
        configuration = self.configuration(job, environ, image, place, secrets)
        if certificate:
            configuration["environment"] |= container_secrets.certificate_variables()
        files = container_secrets.archive(secrets, certificate, _owner(image, place))
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

    def configuration(
        self, job: Job, environ: Mapping[str, str], image: Image, place: Placement, secrets: Mapping[str, str]
    ) -> dict[str, Any]:
        """What the daemon's API takes to create the container of ``job``."""
        api, settings = self.client.api, self._environ
        memory = _size(settings, "PIPPA_MEMORY_LIMIT")
        host = api.create_host_config(
            network_mode=place.network,
            read_only=True,
            tmpfs=_home(image, place),
            mounts=[
                *place.mounts,
                *(Mount(path, None, type="volume", labels={SCRATCH_LABEL: ""}) for path in SCRATCH),
            ],
            device_requests=gpus.requests(self.client.info(), environ) if job.gpus else None,
            shm_size=_size(settings, "PIPPA_SHM_SIZE") or int(parse_bytes(SHM_SIZE)),
            # As PyTorch's own images are run: pinned memory and deep stacks.
            ulimits=[
                Ulimit(name="memlock", soft=-1, hard=-1),
                Ulimit(name="stack", soft=67_108_864, hard=67_108_864),
            ],
            mem_limit=memory,
            memswap_limit=memory,  # no swap: a training that swaps is worse than one that ends and says why
            restart_policy={"Name": "no"},
            auto_remove=False,
            # The images run as a user without capabilities; now no program in them can get any. Nor does root need any
            # for what is its own.
            security_opt=["no-new-privileges"],
            cap_drop=["ALL"] if place.user or _owner(image, place) else None,
            # The daemon's default driver may be one that can't be read back.
            log_config=LogConfig(type="json-file", config={"max-size": "100m", "max-file": "3"}),
        )
        variables = {
            **container_secrets.settings(environ),
            **container_secrets.secret_variables(secrets),
            "PIPPA_HOME": place.home,
            "HOME": f"{place.home}/cache/home",  # what libraries keep between runs
            "PIPPA_IMAGE": images.digest(image),
            workspace.MACHINE: str(self.client.info().get("Name") or ""),
        }
        labels = {"role": job.role, "engine": job.engine, "project": place.project, **job.labels}
        if place.user:
            # The image may not know this user, who then has no name in it.
            variables |= {"USER": "pippa", "LOGNAME": "pippa"}
        if place.store:
            labels["store"] = place.store
        if job.gpus:
            labels[GPUS] = gpus.label(self.client.info(), environ)
        # An image built by compose hands its labels on, and compose would take this for a container of its service:
        # `up` would recreate it and `down` remove it, in the middle of a training.
        inherited = dict.fromkeys(
            (name for name in image.attrs["Config"].get("Labels") or {} if name.startswith("com.docker.compose.")), ""
        )
        return {
            "image": image.id,
            "command": ["trainer", *job.arguments],
            "name": PREFIX + job.name,
            "user": place.user or None,
            "labels": inherited | {LABEL + name: value for name, value in labels.items()},
            "environment": variables,
            "host_config": host,
            # For `docker stop`, and for the daemon's own shutdown.
            "stop_timeout": int(stop_grace(settings)),
        }


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


def _owner(image: Image, place: Placement) -> int:
    """The user id that the container's programs run as: the placement's, or the image's, where a name is ``pippa``."""
    user = place.user.partition(":")[0] or str(image.attrs["Config"].get("User") or "root").partition(":")[0]
    return int(user) if user.isdigit() else 0 if user == "root" else container_secrets.UID


def _home(image: Image, place: Placement) -> dict[str, str]:
    """The folder that ``cache`` and ``runs`` are mounted in, in memory: it holds nothing else that is kept."""
    if any(mount["Target"] == place.home for mount in place.mounts):
        return {}
    owner = _owner(image, place)
    return {place.home: f"uid={owner},gid={owner},mode=0700"}


def _size(environ: Mapping[str, str], name: str) -> int | None:
    """A size in bytes from a setting such as ``64g``. Raises ``UsageError``."""
    text = environ.get(name)
    if not text:
        return None
    try:
        size = int(parse_bytes(text))
    except docker.errors.DockerException:
        size = 0
    if size <= 0:
        raise UsageError(f"{name} is {text!r}, not a size.", "Write one such as 64g.")
    return size
