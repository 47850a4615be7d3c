"""Fixtures of the injected faults."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.flows.conftest import made_prefect, prefect_environ
from tests.support.pippa import BarePippa, bare_pippa

__all__ = ["made_prefect", "prefect_environ"]


@pytest.fixture
def new_pippa(tmp_path: Path) -> Iterator[BarePippa]:
    """``pippa`` on a machine without any server, where it never ran, with an engine that pauses at step 6."""
    with bare_pippa(tmp_path) as pippa:
        yield pippa


@pytest.fixture
def pippa(new_pippa: BarePippa, made_prefect: Path) -> BarePippa:
    """The same where it ran before."""
    new_pippa.has_run(made_prefect)
    return new_pippa


@pytest.fixture
def unrecorded(pippa: BarePippa) -> None:
    """For a test of what Prefect has no part in: its server takes most of a short training's time."""
    pippa.is_not_recorded()


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
