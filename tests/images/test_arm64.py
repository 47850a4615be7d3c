"""The images for linux/arm64: every dependency has a wheel, and no Dockerfile names a processor."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).resolve().parents[2]
GLIBC = 36  # 2.36, of Debian 12, on which the images are built
MACHINE = {"sys_platform": "linux", "platform_machine": "aarch64", "python_version": "3.11"}
PLATFORMS = [f"manylinux_2_{minor}_aarch64" for minor in range(GLIBC, 16, -1)] + ["manylinux2014_aarch64"]
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


@pytest.mark.parametrize("name", ["flows", "trainer", "minio"])
def test_the_dockerfile_names_no_processor(name):
    text = (ROOT / "docker" / f"{name}.Dockerfile").read_text()
    instructions = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
    assert not re.search(r"amd64|x86_64|aarch64|arm64", instructions)
