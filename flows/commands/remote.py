"""Runs on another machine: what ``pippa train PRESET --launcher remote``, ``runs follow`` and ``runs cancel`` share."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markdown import Markdown
from rich.markup import escape

from flows import compose_discovery
from flows.commands import console, spinner
from flows.embedded.prefect import given_api
from flows.settings import prefect_environment
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.run_spec import Engine
from trainer.config.settings import pippa_home
from trainer.disk import private_folder
from trainer.errors import ExitCode, PippaError, UsageError
from trainer.events import Event
from trainer.output import require_reader
from trainer.runner.wandb_setup import GROUP

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun


def submit_and_follow(
    preset: str | None, overrides: dict[str, Any], engine: Engine | None, run_id: str, config: FinetuneConfig | None
) -> int:
    """Submit the training to the Prefect server and follow it; returns its exit code.

    Without ``preset`` it is a run to resume, of the preset it was submitted with.
    """
    from flows.views.forecast import plan, print_needs

    screen = console()
    screen.print(f"[bold]{escape(run_id)}[/]")
    if config is not None and (found := plan(config, "remote", engine or "native", None)):
        print_needs(screen, found)
    with connected() as client:
        from flows.orchestration import remote

        flow_run = remote.submit(client, preset, overrides, engine, run_id, os.environ.get(GROUP, ""))
        screen.print(f"Submitted to {escape(_server())}", soft_wrap=True)
        if not remote.workers_online(client):
            screen.print("[yellow]![/] No worker is online; it begins when one is: `pippa worker`.")
        return follow_to_end(client, flow_run, screen)


def follow_to_end(client: SyncPrefectClient, flow_run: FlowRun, screen: Console) -> int:
    """Show the run until it ends, then its report or its error; returns its exit code, 130 after Ctrl-C."""
    from flows.orchestration import remote

    name = flow_run.name
    end = watch(client, flow_run, screen)
    if end is None:
        screen.print(
            f"[yellow]![/] Stopped watching; the run continues.\n"
            f"  to watch it again: [bold]pippa runs follow {name}[/]\n"
            f"  to end it:         [bold]pippa runs cancel {name}[/]"
        )
        return ExitCode.INTERRUPTED
    if end.error is not None:
        sys.stdout.flush()
        sys.stderr.write(f"error: {end.error.message}\n" + (f"{end.error.hint}\n" if end.error.hint else ""))
    elif end.exit_code == ExitCode.DONE:
        if report := remote.report_of(client, name):
            screen.print(Markdown(report))
    else:
        screen.print(f"[yellow]![/] {end.state}: {escape(end.message)}", soft_wrap=True)
    return end.exit_code


def watch(client: SyncPrefectClient, flow_run: FlowRun, screen: Console) -> Any:
    """Follow in the terminal's progress display; None when Ctrl-C ended the watching.

    Ends this program where stdout is a pipe that nobody reads any more.
    """
    from flows.orchestration import remote
    from flows.views.terminal import Terminal

    with Terminal(flow_run.name, screen) as terminal:

        def observe(event: Event) -> None:
            terminal(event)
            require_reader()

        try:
            return remote.follow(
                client, flow_run.id, flow_run.name, observe, lambda state: terminal.say(f"[dim]{escape(state)}[/]")
            )
        except KeyboardInterrupt:
            return None


def _server() -> str:
    return os.environ["PREFECT_API_URL"].removesuffix("/api")


@contextmanager
def connected() -> Generator[SyncPrefectClient]:
    """A client of the server that the settings name. Raises ``PippaError`` where it can't be used."""
    compose_discovery.adopt(pippa_home())
    if not os.environ.get("PREFECT_API_URL"):
        raise UsageError(
            "PREFECT_API_URL is not set: where is the Prefect server?",
            "Set it, such as http://127.0.0.1:4200/api through an SSH tunnel: ssh -L 4200:127.0.0.1:4200 HOST",
        )
    with suppress(PippaError):  # else Prefect warns that it can't make its folder in there; it can do without
        private_folder(pippa_home())
    os.environ.update({**prefect_environment(pippa_home()), **given_api().to_environ()})
    with spinner("Connecting to the Prefect server"):
        # Prefect takes seconds to import.
        from flows.orchestration.prefect_client import prefect_client

    with prefect_client() as client:
        yield client
