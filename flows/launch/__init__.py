"""Where a trainer runs. Each launcher starts ``trainer run --run-id ID`` and hands back the same view of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol, get_args

from trainer.errors import UsageError
from trainer.events import Event

LauncherName = Literal["process"]


class Training(Protocol):
    """A trainer that was started."""

    log: Path
    """What the trainer wrote for people."""

    def next_event(self, timeout: float) -> Event | None:
        """The next event, or None when ``timeout`` seconds passed without one, or none will follow."""
        ...

    @property
    def exit_code(self) -> int | None:
        """The exit code (negative: killed by that signal) once the trainer has ended and every event was read."""
        ...

    def terminate(self) -> None:
        """Ask it to save, upload and end; asked twice, it ends without saving."""
        ...

    def kill(self) -> None:
        """End it now, with everything it started. Safe to call when it has ended."""
        ...


class Launcher(Protocol):
    """One place to run trainers."""

    def start(self, run_id: str, environ: Mapping[str, str]) -> Training:
        """Start the trainer of ``run_id``, whose spec is in the store that ``environ`` names."""
        ...


def get_launcher(name: str, home: Path) -> Launcher:
    """The launcher called ``name``. Raises ``UsageError`` for an unknown one."""
    if name == "process":
        from flows.launch.process import ProcessLauncher

        return ProcessLauncher(home)
    raise UsageError(
        f"There is no launcher called {name!r}.", f"The launchers are {', '.join(get_args(LauncherName))}."
    )
