"""Runs the trainer in a container beside this process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flows.launch import Job, Log, Training
from trainer.spec import Engine


class DockerLauncher:
    """Starts ``trainer …`` in a container of this machine's Docker engine."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def image(self, engine: Engine, log: Log = lambda _: None) -> str | None:
        """The id of the image of ``engine``, pulled or built if need be."""
        raise NotImplementedError

    def start(self, job: Job, environ: Mapping[str, str]) -> Training:
        """Start ``job`` in its container, or re-attach to the one that runs."""
        raise NotImplementedError
