"""``pippa runs``: what was trained here, how it went, and going on with it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from flows.cli import Parser
from flows.commands import columns, console, note_damage, nothing_stored, opened_store
from flows.commands.remote import connected, follow_to_end, submit_and_follow, watch
from flows.commands.train import LAUNCHERS, chosen_launcher, run_training
from flows.launch import LauncherName
from flows.views.terminal import duration
from trainer.config.run_spec import RUN_ID, RunSpec
from trainer.config.settings import pippa_home, secret_from
from trainer.errors import DamagedObjectError, ExitCode, PippaError, StoreError, UsageError
from trainer.masking import without_secrets
from trainer.runner.wandb_setup import SECRETS
from trainer.store.object_store import ObjectStore

if TYPE_CHECKING:
    from trainer.store.runs import RunState


def show_all(argv: Sequence[str]) -> int:
    """``pippa runs list``"""
    Parser("pippa runs list", description="List runs, the oldest first.").parse_args(argv)
    screen = console()
    if nothing_stored():
        screen.print("No runs yet. `pippa train smoke` is one.")
        return ExitCode.DONE
    store = opened_store()
    from trainer.store import clock
    from trainer.store.runs import list_runs

    damage: list[DamagedObjectError] = []
    found = list_runs(store, damage)
    table = columns("run", "status", "step", "loss", "took", "")
    colours = {"done": "green", "failed": "red", "running": "cyan"}
    now = cache(lambda: clock.store_time(store))
    for run in found:
        state = run.state
        status = state.status if state else "preparing"
        if state is None or state.active:
            with suppress(StoreError):  # a full one has no time to tell
                status = status if _lives(store, run.spec.run_id, state, now) else "lost"
        loss = state.metrics.get("loss") if state else None
        took = (
            duration(((state.ended or state.updated) - state.started).total_seconds())
            if state and state.started
            else ""
        )
        table.add_row(
            escape(run.spec.run_id),
            f"[{colours.get(status, 'yellow')}]{status}[/]",
            f"{state.step}/{state.of}" if state else "",
            f"{loss:.4f}" if loss is not None else "",
            took,
            escape(state.message.partition("\n")[0]) if state and status == "failed" else "",
        )
    screen.print(table)
    note_damage(damage)
    return ExitCode.DONE


def show(argv: Sequence[str]) -> int:
    """``pippa runs show RUN``"""
    parser = Parser("pippa runs show", description="The report of a run.")
    parser.add_argument("run", help="run id, as `pippa runs` lists them")
    parser.add_argument("--markdown", action="store_true", help="a page instead of the terminal")
    arguments = parser.parse_args(argv)
    store = opened_store()
    from flows.views.report import build_report, print_report, to_markdown

    report = build_report(store, arguments.run)
    screen = console()
    if arguments.markdown:
        screen.file.write(to_markdown(report) + "\n")
    else:
        print_report(screen, report)
    return ExitCode.DONE


def pull(argv: Sequence[str]) -> int:
    """``pippa runs pull RUN FOLDER``"""
    parser = Parser("pippa runs pull", description="Copy what a run left in the object store, but for checkpoints.")
    parser.add_argument("run", help="run id, as `pippa runs` lists them")
    parser.add_argument("folder", type=Path, help="where to; must not exist yet")
    arguments = parser.parse_args(argv)
    folder = arguments.folder.expanduser()
    if folder.exists():
        raise UsageError(f"{folder} exists already.", "Name a folder that does not.")
    store = opened_store()
    from trainer.store import runs

    runs.read_spec(store, arguments.run)
    written = runs.download_folder(store, arguments.run, "", folder)
    console().print(f"[green]✓[/] {len(written)} files are in {escape(str(folder))}", soft_wrap=True)
    return ExitCode.DONE


def sync(argv: Sequence[str]) -> int:
    """``pippa runs sync RUN``"""
    parser = Parser("pippa runs sync", description="Upload to W&B what a run recorded offline.")
    parser.add_argument("run", help="run id, as `pippa runs` lists them")
    arguments = parser.parse_args(argv)
    store = opened_store()
    with tempfile.TemporaryDirectory() as temporary:
        from trainer.store import runs

        runs.read_spec(store, arguments.run)
        folder = Path(temporary) / "wandb"
        runs.download_folder(store, arguments.run, "wandb", folder)
        # In the order they were recorded: a resumed run has one per part, and W&B joins them.
        parts = sorted(folder.glob("offline-run-*"))
        if not parts:
            raise UsageError(f"{arguments.run} recorded nothing offline.", f"`pippa runs show {arguments.run}`.")
        key = secret_from(os.environ, "WANDB_API_KEY")
        environ = {**without_secrets(os.environ, SECRETS), **({"WANDB_API_KEY": key} if key else {})}
        uploaded = _wandb_sync(parts, environ)
    if not uploaded:
        raise PippaError("W&B did not take it.", "`wandb login`, or set WANDB_API_KEY; its files stay in the store.")
    return ExitCode.DONE


def resume(argv: Sequence[str]) -> int:
    """``pippa runs resume RUN``"""
    parser = Parser(
        "pippa runs resume", description="Continue a run from its last checkpoint, with the configuration it had."
    )
    parser.add_argument("run", help="run id, as `pippa runs` lists them")
    parser.add_argument(
        "--launcher",
        choices=LAUNCHERS,
        help="as of `pippa train`; by default docker for a run that was trained in an image",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="also a run that was heard of within the last minute: only where you know that nothing of it is alive, "
        "its machine is off for example. Else it is trained twice.",
    )
    arguments = parser.parse_args(argv)
    if chosen_launcher(arguments.launcher) == "remote":
        if not RUN_ID.fullmatch(arguments.run):
            raise UsageError(f"{arguments.run!r} is not a run id.", "`pippa runs` lists them.")
        preset = arguments.run.rsplit("-", 3)[0]
        return submit_and_follow(preset, {}, None, arguments.run, None)
    store = opened_store()
    spec, state = _resumable(store, arguments.run)
    launcher = chosen_launcher(arguments.launcher, "docker" if spec.image else "process")
    assert launcher != "remote"  # noqa: S101 - that was seen to above
    if not arguments.force:
        _require_not_elsewhere(store, spec, state, launcher)
    return run_training(spec.preset, {}, launcher, arguments.run, None, spec.engine)


def follow(argv: Sequence[str]) -> int:
    """``pippa runs follow RUN``"""
    parser = Parser("pippa runs follow", description="Watch a run on another machine. Ctrl-C stops watching.")
    parser.add_argument("run", help="run id")
    arguments = parser.parse_args(argv)
    with connected() as client:
        from flows.orchestration import remote

        return follow_to_end(client, remote.find(client, arguments.run), console())


def cancel(argv: Sequence[str]) -> int:
    """``pippa runs cancel RUN``"""
    parser = Parser("pippa runs cancel", description="End a training; it saves and uploads a last checkpoint first.")
    parser.add_argument("run", help="run id")
    arguments = parser.parse_args(argv)
    screen = console()
    with connected() as client:
        from flows.orchestration import remote

        flow_run = remote.find(client, arguments.run)
        if flow_run.state is not None and flow_run.state.is_final():
            screen.print(f"{escape(flow_run.name)} has ended already: {flow_run.state.name}.")
            return ExitCode.DONE
        remote.cancel(client, flow_run)
        end = watch(client, flow_run, screen)
        if end is None:
            return ExitCode.INTERRUPTED
    screen.print(f"[green]✓[/] {escape(flow_run.name)}: {end.state}. To continue it: pippa runs resume {flow_run.name}")
    return ExitCode.DONE


def _wandb_sync(parts: Sequence[Path], environ: Mapping[str, str]) -> bool:
    """Run ``wandb sync``, its words shown as they come; whether it took everything.

    It ends with 0 even when it could not, and only says ERROR.
    """
    command = [sys.executable, "-m", "wandb", "sync", *map(str, parts)]
    said_error = False
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout or ():
            sys.stderr.write(line)
            said_error |= "ERROR" in line
    return process.returncode == 0 and not said_error


def _lives(store: ObjectStore, run_id: str, state: RunState | None, now: Callable[[], datetime]) -> bool:
    """Whether an unfinished run goes on. Where it runs or ran is known best; from elsewhere its last word tells.

    ``now`` asks for the store's time. Raises ``StoreError``.
    """
    from trainer.runner.workspace import is_held
    from trainer.store import heartbeat

    held = is_held(state.lock) if state else None
    return heartbeat.is_alive(store, run_id, now()) if held is None else held


def _resumable(store: ObjectStore, run_id: str) -> tuple[RunSpec, RunState | None]:
    """What a run that can be continued is, and how it went. Raises ``UsageError`` for one that can't."""
    from trainer.store import runs

    spec, state = runs.read_spec(store, run_id), runs.read_state(store, run_id)
    if state is not None and state.status == "done":
        raise UsageError(f"{run_id} is done.", f"`pippa runs show {run_id}` tells how it went.")
    return spec, state


def _require_not_elsewhere(store: ObjectStore, spec: RunSpec, state: RunState | None, launcher: LauncherName) -> None:
    """Raise ``UsageError`` for a run that goes on where ``launcher`` would not find it: it would be trained twice."""
    from trainer.store import clock

    now = partial(clock.store_time, store)
    if state is None or not state.active or not _lives(store, spec.run_id, state, now):
        return
    if launcher == "docker":
        from flows.launch.docker.launcher import DockerLauncher

        if DockerLauncher(pippa_home()).knows(spec.run_id):
            return
    attach = f"`pippa runs resume {spec.run_id} --launcher docker` on its machine attaches to its container. "
    raise UsageError(
        f"{spec.run_id} still trains: it was heard of a moment ago, at step {state.step}/{state.of}.",
        f"`pippa runs follow {spec.run_id}` watches it, `pippa runs cancel {spec.run_id}` ends it. "
        + (attach if spec.image else "")
        + f"One that was killed can be resumed a minute after its last word, or, where nothing of it can be alive "
        f"(its machine is off), at once: `pippa runs resume {spec.run_id} --force`.",
    )
