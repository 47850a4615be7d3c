"""The images that training containers are made from: named, found, built in a checkout or pulled."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import docker
import docker.errors
import docker.utils
from docker.models.images import Image

from flows.launch import Log
from flows.launch.docker.docker_client import UNREACHABLE, daemon_address, unreachable
from trainer.config.run_spec import Engine
from trainer.errors import PippaError, UsageError
from trainer.masking import without_our_secrets
from trainer.version import git_sha

_SETTING: dict[Engine, str] = {
    "native": "PIPPA_TRAINER_IMAGE",
    "isaac-uv": "PIPPA_ISAAC_UV_IMAGE",
    "isaac-conda": "PIPPA_ISAAC_CONDA_IMAGE",
    "isaac-n17": "PIPPA_ISAAC_N17_IMAGE",
}
_BUILT: dict[Engine, tuple[str, str]] = {
    "native": ("pippa/trainer:local", "docker/trainer.Dockerfile"),
    "isaac-uv": ("pippa/isaac-uv:local", "docker/isaac-uv.Dockerfile"),
    "isaac-conda": ("pippa/isaac-conda:local", "docker/isaac-conda.Dockerfile"),
    "isaac-n17": ("pippa/isaac-n17:local", "docker/isaac-n17.Dockerfile"),
}
"""The image of each engine when no setting names one, and the file that builds it."""

SAY_SECONDS = 5.0
TAIL_LINES = 20


def image_name(engine: Engine, environ: Mapping[str, str] = os.environ) -> str:
    """The image of ``engine``: its setting, else that of the user's registry, else the one that a checkout builds.

    The same names as in ``compose.yaml``.
    """
    if name := environ.get(_SETTING[engine]):
        return name
    folder, image, tag = re.split("[/:]", _BUILT[engine][0])
    return f"{environ.get('PIPPA_REGISTRY') or folder}/{image}:{environ.get('PIPPA_TAG') or tag}"


def find_image(client: docker.DockerClient, engine: Engine, environ: Mapping[str, str] = os.environ) -> Image | None:
    """The image of ``engine`` when the Docker daemon has it."""
    try:
        return client.images.get(image_name(engine, environ))
    except docker.errors.ImageNotFound:
        return None
    except docker.errors.APIError as error:
        if error.status_code == 400:
            raise UsageError(
                f"{_SETTING[engine]} is {image_name(engine, environ)!r}, which is no image name.", "NAME:TAG is one."
            ) from error
        raise


def ensure_image(
    client: docker.DockerClient, engine: Engine, environ: Mapping[str, str] = os.environ, log: Log = lambda _: None
) -> Image:
    """The image of ``engine``: pulled when a setting names another than ours, which is built where this is a checkout.

    Ours is never pulled: whatever a registry has under its name is somebody else's, and would get the keys of the
    store. ``log`` gets a line every few seconds. Raises ``PippaError`` with the command that gets the image.
    """
    if image := find_image(client, engine, environ):
        return image
    name = image_name(engine, environ)
    if _repository(name) == _repository(_BUILT[engine][0]):
        build(engine, environ, log)
    else:
        pull(client, name, log)
    if image := find_image(client, engine, environ):
        return image
    raise PippaError(
        f"The Docker daemon at {daemon_address(environ)} still has no image {name}.",
        "The docker command seems to use another engine: compare `docker context ls` with DOCKER_HOST.",
    )


def _repository(name: str) -> str:
    return str(docker.utils.parse_repository_tag(name)[0])


def digest(image: Image) -> str:
    """What identifies ``image``: its digest in a registry, else its id here."""
    repository = image.attrs.get("RepoDigests") or []
    return str(repository[0]) if repository else str(image.id)


def build(engine: Engine, environ: Mapping[str, str], log: Log) -> None:
    """Build the image of ``engine`` with the ``docker`` command, in the checkout that this code or folder is."""
    name, file = image_name(engine, environ), _BUILT[engine][1]
    root = next((root for root in (Path(__file__).parents[3], Path.cwd()) if (root / file).is_file()), None)
    arguments = ["-f", file, "-t", name]
    if bundle := environ.get("PIPPA_CA_BUNDLE"):
        arguments += ["--secret", f"id=ca,src={Path(bundle).expanduser()}"]
    service = Path(file).stem
    hint = f"In a checkout of pippa: `docker compose build {service}`; or {_SETTING[engine]} names one to pull."
    if root is None or shutil.which("docker", path=environ.get("PATH")) is None:
        lacking = "this is no checkout" if root is None else "there is no docker command"
        raise PippaError(f"The image {name} is missing, and {lacking} to build it with.", hint)
    if commit := git_sha(environ):
        arguments += ["--build-arg", f"PIPPA_GIT_SHA={commit}"]
    log(f"Building {name}. The first time this downloads several GB and takes minutes.")
    process = subprocess.Popen(
        ["docker", "build", "--progress=plain", *arguments, "."],
        cwd=root,
        env={**without_our_secrets(environ), "DOCKER_BUILDKIT": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    logged = time.monotonic()
    with process:
        assert process.stdout is not None  # noqa: S101 - a pipe
        try:
            for line in process.stdout:
                if not (line := line.strip()):
                    continue
                tail.append(line)
                if time.monotonic() - logged > SAY_SECONDS:
                    logged = time.monotonic()
                    log(line[:200])
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise PippaError(f"{name} could not be built. The end of docker's output:\n" + "\n".join(tail), hint)
    log(f"Built {name}.")


def pull(client: docker.DockerClient, name: str, log: Log) -> None:
    """Pull ``name``. Raises ``PippaError`` with the engine's reason."""
    repository, tag = docker.utils.parse_repository_tag(name)
    log(f"Pulling {name}.")
    try:
        _follow(client.api.pull(repository, tag=tag or "latest", stream=True, decode=True), name, log)
    except docker.errors.APIError as error:
        raise _no_pull(name, error.explanation or str(error)) from error
    except UNREACHABLE as error:
        raise unreachable(client.api.base_url, error) from error
    log(f"Pulled {name}.")


def _follow(lines: Iterable[dict[str, Any]], name: str, log: Log) -> None:
    done: dict[str, int] = {}
    total: dict[str, int] = {}
    logged = time.monotonic()
    for line in lines:
        if reason := line.get("error"):
            raise _no_pull(name, reason)
        detail = line.get("progressDetail") or {}
        if line.get("status") == "Downloading" and detail.get("total"):
            done[line["id"]], total[line["id"]] = detail["current"], detail["total"]
        elif line.get("status") in ("Download complete", "Pull complete") and line.get("id") in total:
            done[line["id"]] = total[line["id"]]
        if total and time.monotonic() - logged > SAY_SECONDS:
            logged = time.monotonic()
            log(f"Pulling {name}: {sum(done.values()) / 1e9:.1f} of {sum(total.values()) / 1e9:.1f} GB")


def _no_pull(name: str, reason: str) -> PippaError:
    return PippaError(
        f"The image {name} is missing, and it can't be pulled: {reason.strip()}",
        f"`docker pull {name}` tries it by hand; a private registry wants `docker login` first. Without the setting, "
        "pippa's own image is built from a checkout.",
    )
