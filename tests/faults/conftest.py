"""Fixtures of the injected faults."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from flows.embedded.prefect import server_environment
from tests.conftest import REPOSITORY
from tests.flows.conftest import prefect_environ
from tests.support.pippa import BarePippa, bare_pippa

__all__ = ["prefect_environ"]


@pytest.fixture(scope="session")
def made_prefect(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a Prefect that was started once: making its database takes most of a short training's time."""
    home = tmp_path_factory.mktemp("made")
    code = "from flows.embedded.prefect import serving\nwith serving(): pass"
    environ = server_environment(home, {"PATH": os.environ["PATH"]})
    subprocess.run([sys.executable, "-c", code], env=environ, cwd=REPOSITORY, check=True)
    return home / "prefect"


@pytest.fixture
def new_pippa(tmp_path: Path) -> Iterator[BarePippa]:
    """``pippa`` on a machine without any server, where it never ran, with an engine that pauses at step 6."""
    with bare_pippa(tmp_path) as pippa:
        yield pippa


@pytest.fixture
def pippa(new_pippa: BarePippa, made_prefect: Path) -> BarePippa:
    """The same where it ran before."""
    shutil.copytree(made_prefect, new_pippa.home / "prefect")
    return new_pippa


@pytest.fixture
def small_disk() -> Iterator[Callable[[Path, str], Path]]:
    """Makes a folder a separate disk of a size such as ``2m``; needs root."""
    with ExitStack() as mounted:

        def mount(folder: Path, size: str) -> Path:
            folder.mkdir(parents=True, exist_ok=True)
            options = ["-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(folder)]
            done = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
            mounted.callback(subprocess.run, ["umount", "--lazy", str(folder)], check=True)
            return folder

        yield mount


def fill(folder: Path) -> Path:
    """Leave no byte free on the disk of ``folder``; the file to delete."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 65536)
        except OSError:
            pass
    return ballast
