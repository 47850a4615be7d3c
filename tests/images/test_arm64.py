"""The images for linux/arm64: Compose builds them, each dependency has a wheel, no Dockerfile names a processor."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).resolve().parents[2]
GLIBC = 36  # 2.36, of Debian 12, on which the images are built
PYTHON = {"python_version": "3.11", "python_full_version": "3.11.0"}
MACHINE = {"sys_platform": "linux", "platform_machine": "aarch64", **PYTHON}
PLATFORMS = [f"manylinux_2_{minor}_aarch64" for minor in range(GLIBC, 16, -1)] + ["manylinux2014_aarch64"]
IMAGES = ["flows", "trainer", "minio"]
TAGS = {*cpython_tags((3, 11), platforms=PLATFORMS), *compatible_tags((3, 11), "cp311", PLATFORMS)}


@pytest.mark.parametrize("group", ["flows", "run", "trainer"])
def test_every_locked_dependency_of_an_image_has_a_wheel(group):
    command = ["uv", "export", "--frozen", "--quiet", "--no-default-groups", "--no-hashes", "--no-emit-project"]
    exported = subprocess.run([*command, "--group", group], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    lines = [line for line in exported.splitlines() if line and not line.lstrip().startswith("#")]
    needed = [each for each in map(Requirement, lines) if each.marker is None or each.marker.evaluate(MACHINE)]
    assert len(needed) > 10
    locked = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    for requirement in needed:
        (package,) = [
            each
            for each in locked
            if each["name"] == canonicalize_name(requirement.name) and requirement.specifier.contains(each["version"])
        ]
        names = [Path(wheel["url"]).name for wheel in package.get("wheels", [])]
        assert any(parse_wheel_filename(name)[3] & TAGS for name in names), f"{requirement}: {names}"


@pytest.mark.parametrize("name", IMAGES)
def test_the_dockerfile_names_no_processor(name):
    assert not re.search(r"amd64|x86_64|aarch64|arm64", instructions(name))


@pytest.mark.parametrize("name", IMAGES)
def test_what_only_builds_runs_on_the_processor_that_builds(name):
    """Emulated, uv's unpacking and Go's compiling would take an hour."""
    *before, image = re.findall(r"^FROM (.+)$", instructions(name), flags=re.MULTILINE)
    assert before and all(stage.startswith("--platform=${BUILDPLATFORM} ") for stage in before)
    assert "--platform" not in image


def test_compose_builds_them_for_both_processors():
    """With Compose itself, which needs no daemon for it."""
    if not shutil.which("docker"):
        pytest.skip("docker compose is not installed here")
    files = ["--file", "compose.yaml", "--file", "deploy/platforms.yaml"]
    command = ["docker", "compose", *files, "--profile", "*", "config", "--format", "json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    built = {
        service["build"]["dockerfile"]: service["build"].get("platforms")
        for service in json.loads(done.stdout)["services"].values()
        if "build" in service
    }
    upstreams = dict.fromkeys(f"docker/isaac-{name}.Dockerfile" for name in ("uv", "conda", "n17"))
    both = ["linux/amd64", "linux/arm64"]
    assert built == {f"docker/{name}.Dockerfile": both for name in IMAGES} | upstreams


def instructions(name: str) -> str:
    lines = (ROOT / "docker" / f"{name}.Dockerfile").read_text().splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("#"))
