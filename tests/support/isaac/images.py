"""Builds the images of upstream's engine from the stand-in, where neither CUDA's base nor conda's can be pulled."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.support.isaac.repository import BRANCH, CONDA, make_repository
from trainer.config.run_spec import Engine

ROOT = Path(__file__).resolve().parents[3]
BASE = "python:3.11-slim-bookworm"
"""Debian with Python stands in for CUDA's images; conda's stand-in makes environments of that Python."""


def build_image(engine: Engine, folder: Path, tag: str) -> str:
    """Build the image of ``engine`` as ``tag``, from a stand-in repository made in ``folder``; returns its commit.

    Needs the ``docker`` command with BuildKit. Raises ``RuntimeError`` with the end of the build's output.
    """
    source = folder / "Isaac-GR00T"
    commit = make_repository(source, engine)
    arguments = {
        "PYTHON_VERSION": "3.11",
        "ENGINE_PACKAGES": "",
        "ISAAC_REF": BRANCH,
        "PIPPA_GIT_SHA": "0" * 40,
    }
    if engine == "isaac-n17":
        arguments["CUDA_IMAGE"] = BASE
    else:
        arguments |= {"BUILD_IMAGE": BASE, "RUNTIME_IMAGE": BASE, "FLASH_ATTN": ""}
    if engine == "isaac-conda":
        arguments["CONDA_IMAGE"] = conda_tag(tag)
        _docker("build", "--quiet", "--tag", conda_tag(tag), str(CONDA))
    certificates = os.environ.get("PIPPA_CA_BUNDLE") or os.devnull
    options = ["--build-context", f"isaac={source}", "--secret", f"id=ca,src={certificates}", "--tag", tag]
    for name, value in arguments.items():
        options += ["--build-arg", f"{name}={value}"]
    _docker("build", "--quiet", "--file", str(ROOT / "docker" / f"{engine}.Dockerfile"), *options, str(ROOT))
    return commit


def remove_image(tag: str) -> None:
    """Remove what ``build_image`` left in the Docker daemon under ``tag``."""
    for name in (tag, conda_tag(tag)):
        if shutil.which("docker"):
            subprocess.run(["docker", "image", "rm", "--force", name], capture_output=True, check=False)


def conda_tag(tag: str) -> str:
    """The tag of conda's stand-in beside ``tag``."""
    return f"{tag}-conda"


def _docker(*arguments: str) -> None:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-4000:])
