"""The launchers by name. Each one's module is imported only when it is asked for: the Docker SDK takes its time."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from flows.launch import Launcher, LauncherName
from trainer.errors import UsageError


def get_launcher(name: str, home: Path) -> Launcher:
    """The launcher called ``name``. Raises ``UsageError`` for an unknown one."""
    if name == "process":
        from flows.launch.process import ProcessLauncher

        return ProcessLauncher(home)
    if name == "docker":
        from flows.launch.docker.launcher import DockerLauncher

        return DockerLauncher(home)
    raise UsageError(
        f"There is no launcher called {name!r}.", f"The launchers are {', '.join(get_args(LauncherName))}."
    )
