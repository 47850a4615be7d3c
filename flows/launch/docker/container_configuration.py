"""What the Docker daemon is asked for when it creates the container of a job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import docker
import docker.errors
from docker.models.images import Image
from docker.types import LogConfig, Mount, Ulimit
from docker.utils import parse_bytes

from flows.launch import Job
from flows.launch.docker import container_secrets, gpus, images
from flows.launch.docker.placement import Placement
from flows.settings import stop_grace
from trainer.errors import UsageError
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


@dataclass(frozen=True)
class ContainerConfiguration:
    """The container of ``job``. ``settings`` are the launcher's, ``environ`` the job's."""

    client: docker.DockerClient
    settings: Mapping[str, str]
    job: Job
    environ: Mapping[str, str]
    image: Image
    place: Placement

    def arguments(self, secrets: Mapping[str, str]) -> dict[str, Any]:
        """What the daemon's API takes to create it. ``secrets`` are the names of the files that will lie in it."""
        return {
            "image": self.image.id,
            "command": ["trainer", *self.job.arguments],
            "name": PREFIX + self.job.name,
            "user": self.place.user or None,
            "labels": self._labels(),
            "environment": self._variables(secrets),
            "host_config": self._host_config(),
            # For `docker stop`, and for the daemon's own shutdown.
            "stop_timeout": int(stop_grace(self.settings)),
        }

    @property
    def owner(self) -> int:
        """The user id that its programs run as: the placement's, or the image's, where a name is ``pippa``."""
        user = self.place.user.partition(":")[0]
        user = user or str(self.image.attrs["Config"].get("User") or "root").partition(":")[0]
        return int(user) if user.isdigit() else 0 if user == "root" else container_secrets.UID

    def _labels(self) -> dict[str, str]:
        job, place = self.job, self.place
        labels = {"role": job.role, "engine": job.engine, "project": place.project, **job.labels}
        if place.store:
            labels["store"] = place.store
        if job.gpus:
            labels[GPUS] = gpus.label(self.client.info(), self.environ)
        # An image built by compose hands its labels on, and compose would take this for a container of its service:
        # `up` would recreate it and `down` remove it, in the middle of a training.
        inherited = dict.fromkeys(
            (name for name in self.image.attrs["Config"].get("Labels") or {} if name.startswith("com.docker.compose.")),
            "",
        )
        return inherited | {LABEL + name: value for name, value in labels.items()}

    def _variables(self, secrets: Mapping[str, str]) -> dict[str, str]:
        variables = {
            **container_secrets.settings(self.environ),
            **container_secrets.secret_variables(secrets),
            "PIPPA_HOME": self.place.home,
            "HOME": f"{self.place.home}/cache/home",  # what libraries keep between runs
            "PIPPA_IMAGE": images.digest(self.image),
            workspace.MACHINE: str(self.client.info().get("Name") or ""),
        }
        if self.place.user:
            # The image may not know this user, who then has no name in it.
            variables |= {"USER": "pippa", "LOGNAME": "pippa"}
        return variables

    def _host_config(self) -> dict[str, Any]:
        place, memory = self.place, _size(self.settings, "PIPPA_MEMORY_LIMIT")
        return self.client.api.create_host_config(
            network_mode=place.network,
            read_only=True,
            tmpfs=self._tmpfs(),
            mounts=[
                *place.mounts,
                *(Mount(path, None, type="volume", labels={SCRATCH_LABEL: ""}) for path in SCRATCH),
            ],
            device_requests=gpus.requests(self.client.info(), self.environ) if self.job.gpus else None,
            shm_size=_size(self.settings, "PIPPA_SHM_SIZE") or int(parse_bytes(SHM_SIZE)),
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
            cap_drop=["ALL"] if place.user or self.owner else None,
            # The daemon's default driver may be one that can't be read back.
            log_config=LogConfig(type="json-file", config={"max-size": "100m", "max-file": "3"}),
        )

    def _tmpfs(self) -> dict[str, str]:
        """The folder that ``cache`` and ``runs`` are mounted in, in memory: it holds nothing else that is kept."""
        home = self.place.home
        if any(mount["Target"] == home for mount in self.place.mounts):
            return {}
        return {home: f"uid={self.owner},gid={self.owner},mode=0700"}


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
