"""``pippa worker``: runs what is started or scheduled in Prefect, on this machine."""

from __future__ import annotations

import os
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console

from flows.commands import Add, console
from flows.commands.train import chosen_launcher
from flows.embedded.prefect import given_api
from flows.launch import LauncherName
from flows.prefect_server import UnreachableError, require_server
from flows.settings import keep_bytecode, prefect_environment
from trainer.config.preset_files import SETTING as PRESETS_SETTING
from trainer.config.preset_files import presets_file
from trainer.config.settings import S3Settings, pippa_home
from trainer.disk import private_folder
from trainer.errors import UsageError
from trainer.runner.run_spec_builder import engine_from

WAIT_SECONDS = 180.0


def commands(add: Add, words: Sequence[str]) -> None:  # noqa: ARG001
    """The command ``pippa worker``."""
    parser = add(
        "worker",
        worker,
        description="Register pippa's deployments with the Prefect server of PREFECT_API_URL, and run on this machine "
        "what is started or scheduled there, until it is stopped.",
    )
    parser.add_argument("--name", help="its name in the UI (default: this machine's)")
    parser.add_argument(
        "--launcher", choices=get_args(LauncherName), help="what the forms propose (default: PIPPA_LAUNCHER, or docker)"
    )
    parser.add_argument(
        "--idle-minutes",
        type=float,
        metavar="N",
        help="run --idle-command when nothing was trained on this machine for so long [never]",
    )
    parser.add_argument(
        "--idle-command", metavar="COMMAND", help="what stops the machine, such as 'sudo poweroff', without a shell"
    )


def worker(arguments: Namespace) -> int:
    """``pippa worker``"""
    minutes, command = arguments.idle_minutes, arguments.idle_command
    if (minutes is None) != (not command):
        raise UsageError("--idle-minutes and --idle-command belong together.", "Give both, or none.")
    if minutes is not None and not 0 < minutes < 1e6:
        raise UsageError(f"--idle-minutes {minutes:g}: not a time.", "Give minutes, such as 30.")
    launcher = chosen_launcher(arguments.launcher, "docker")
    if launcher == "remote":
        raise UsageError("PIPPA_LAUNCHER is remote, and a worker is where trainings run.", "Use docker or process.")
    home, screen = pippa_home(), console()
    _environment(home)
    _wait_for_server(screen)

    from flows.orchestration.worker import work

    idle = (minutes * 60, command) if minutes else None
    return work(screen, name=arguments.name, launcher=launcher, engine=engine_from(), idle=idle)


def _environment(home: Path) -> None:
    """What this process and every flow it starts must find in ``os.environ``. Raises ``PippaError``."""
    if not os.environ.get("PREFECT_API_URL"):
        raise UsageError(
            "PREFECT_API_URL is not set: which Prefect server?",
            "Set it, such as http://127.0.0.1:4200/api; `pippa server` starts one.",
        )
    if not os.environ.get("PIPPA_S3_ENDPOINT"):
        raise UsageError(
            "PIPPA_S3_ENDPOINT is not set: a worker needs an object store that those who submit trainings reach too.",
            "Set it and its keys, such as those of the compose stack's MinIO (docs/stack.md) or of a bucket.",
        )
    S3Settings.from_environ()
    private_folder(home)
    if file := presets_file():
        os.environ[PRESETS_SETTING] = str(file)  # flows run in another folder
    os.environ["PIPPA_HOME"] = str(home)
    keep_bytecode(home)
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "INFO")
    # Pauses of 2, 4 … 256 seconds: a flow outlasts a server that is away for eight minutes.
    os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", "8")
    # So says a server whose database is away.
    os.environ.setdefault("PREFECT_CLIENT_RETRY_EXTRA_CODES", "500")
    os.environ.update({**prefect_environment(home), **given_api().to_environ()})
    # Flows are started as `python …`, which must be this one.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def _wait_for_server(screen: Console) -> None:
    url = os.environ["PREFECT_API_URL"]
    deadline = time.monotonic() + WAIT_SECONDS
    reported = False
    while True:
        try:
            require_server(url)
        except UnreachableError:
            if time.monotonic() > deadline:
                raise
        else:
            return
        if not reported:
            screen.print(f"Waiting for the Prefect server {url}.", soft_wrap=True)
            reported = True
        time.sleep(0.5)
