from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from pathlib import Path

import docker
import pytest

from flows.launch.docker import images
from tests.flows.launch.conftest import Bench
from trainer.errors import PippaError, UsageError


def test_each_engine_has_its_image_and_its_setting():
    assert images.image_name("native", {}) == "pippa/trainer:local"
    assert images.image_name("isaac-conda", {"PIPPA_ISAAC_CONDA_IMAGE": "ghcr.io/us/groot:1"}) == "ghcr.io/us/groot:1"


def test_a_registry_names_the_images_of_every_engine():
    registry = {"PIPPA_REGISTRY": "ghcr.io/us/pippa", "PIPPA_TAG": "v1"}
    assert images.image_name("native", registry) == "ghcr.io/us/pippa/trainer:v1"
    assert images.image_name("isaac-uv", {**registry, "PIPPA_ISAAC_UV_IMAGE": "other:2"}) == "other:2"


def test_a_pull_is_told_in_a_few_lines(monkeypatch):
    monkeypatch.setattr(images, "SAY_SECONDS", 0)
    lines = [
        {"status": "Pulling from us/trainer", "id": "1"},
        {"status": "Downloading", "id": "a", "progressDetail": {"current": 10**9, "total": 3 * 10**9}},
        {"status": "Download complete", "id": "a"},
    ]
    said: list[str] = []
    images._follow(lines, "us/trainer:1", said.append)
    assert said[0] == "Pulling us/trainer:1: 1.0 of 3.0 GB" and said[-1].endswith("3.0 of 3.0 GB")
    with pytest.raises(PippaError, match="denied") as error:
        images._follow([*lines, {"error": "denied: you may not"}], "us/trainer:1", said.append)
    assert "docker pull us/trainer:1" in error.value.hint


@pytest.mark.docker
def test_an_image_that_can_not_be_pulled_says_how_to_try(bench: Bench):
    bench.environ["PIPPA_TRAINER_IMAGE"] = "localhost:1/pippa-test/nothing:1"
    with pytest.raises(PippaError, match="can't be pulled") as error:
        bench.start()
    assert "docker pull localhost:1/pippa-test/nothing:1" in error.value.hint
    bench.environ["PIPPA_TRAINER_IMAGE"] = "Not An Image"
    with pytest.raises(UsageError, match="PIPPA_TRAINER_IMAGE"):
        bench.start()


@pytest.mark.docker
def test_our_own_name_is_never_pulled(docker_client, tmp_path, monkeypatch):
    """The owner of that name in a registry would be given the keys of the store."""
    monkeypatch.setitem(images._BUILT, "native", ("pippa-test/never:local", "docker/none.Dockerfile"))
    monkeypatch.chdir(tmp_path)
    # As compose.yaml always sets it; a tag of one's own makes it nobody else's name.
    for environ in {"PIPPA_TRAINER_IMAGE": "pippa-test/never:local"}, {"PIPPA_TAG": "v1"}:
        with pytest.raises(PippaError, match="no checkout") as error:
            images.ensure_image(docker_client, "native", environ)
    assert "docker compose build none" in error.value.hint and "PIPPA_TRAINER_IMAGE" in error.value.hint
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "none.Dockerfile").touch()
    with pytest.raises(PippaError, match="no docker command"):
        images.ensure_image(docker_client, "native", {"PATH": str(tmp_path)})


@pytest.mark.docker
def test_in_a_checkout_it_is_built(docker_client: docker.DockerClient, tmp_path: Path, monkeypatch):
    if not shutil.which("docker") or subprocess.run(["docker", "buildx", "version"], capture_output=True).returncode:
        pytest.skip("there is no docker command with BuildKit")
    tag = f"pippa-test/built:{secrets.token_hex(4)}"
    monkeypatch.setitem(images._BUILT, "native", (tag, "docker/here.Dockerfile"))
    monkeypatch.setattr(images, "SAY_SECONDS", 0)
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "docker" / "here.Dockerfile"
    file.parent.mkdir()
    file.write_text("FROM scratch\nCOPY missing /\n")
    environ = {name: value for name in ("PATH", "HOME", "DOCKER_HOST") if (value := os.environ.get(name))}
    with pytest.raises(PippaError, match="could not be built") as error:
        images.ensure_image(docker_client, "native", environ)
    assert "missing" in error.value.message
    file.write_text('FROM scratch\nARG PIPPA_GIT_SHA\nLABEL revision="$PIPPA_GIT_SHA"\n')
    said: list[str] = []
    try:
        image = images.ensure_image(docker_client, "native", {**environ, "PIPPA_GIT_SHA": "c0ffee"}, said.append)
        assert image.labels["revision"] == "c0ffee" and images.digest(image) == image.id
        assert said[0].startswith(f"Building {tag}") and said[-1] == f"Built {tag}."
    finally:
        docker_client.images.remove(tag, force=True)
