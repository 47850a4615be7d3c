"""``pippa runs``: what was trained, how it went, and continuing it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from flows.commands import (
    Add,
    add_json,
    add_last,
    console,
    existing_store,
    newest,
    note_damage,
    nothing_stored,
    opened_store,
    print_json,
)
from flows.commands.remote import connected, follow_to_end, submit_and_follow, watch
from flows.commands.train import LAUNCHERS, chosen_launcher, run_training
from flows.orchestration.resuming import launcher_of, lives, require_not_elsewhere, resumable
from trainer.command_line import Switch
from trainer.config.flags import flag
from trainer.config.run_spec import RUN_ID
from trainer.config.settings import pippa_home, secret_from
from trainer.errors import DamagedObjectError, ExitCode, PippaError, StoreError, UsageError
from trainer.masking import without_secrets
from trainer.runner.child_process import Signals
from trainer.runner.joining import join
from trainer.runner.nodes import this_node
from trainer.runner.placement import DEVICE_FIELDS, placed
from trainer.runner.wandb_setup import SECRETS
from trainer.store.object_store import ObjectStore

if TYPE_CHECKING:
    from trainer.store.runs import Run


RUN_HELP = "run id, as `pippa runs list` lists them"
STATUSES = ("preparing", "running", "done", "failed", "stopped", "lost")


def commands(add: Add, words: Sequence[str]) -> None:  # noqa: ARG001
    """The commands of ``pippa runs``."""
    parser = add("runs list", show_all, description="List runs, the oldest first.")
    parser.add_argument("--status", choices=STATUSES, help="only those of this status")
    parser.add_argument("--preset", help="only those of this preset")
    parser.add_argument("--dataset", help="only those on this dataset")
    add_last(parser)
    add_json(parser)
    parser = add("runs show", show, description="Show the report of a run.")
    parser.add_argument("run", metavar="RUN", help=RUN_HELP)
    parser.add_argument("--markdown", action="store_true", help="a page instead of the terminal")
    add_json(parser)
    parser = add(
        "runs compare",
        compare,
        description="Show what differs between runs in configuration, data and code, and how each of them went.",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help=RUN_HELP)
    parser.add_argument("--output", type=Path, metavar="FILE", help="write a page with the curves, one HTML file")
    add_json(parser)
    parser = add("runs pull", pull, description="Copy what a run left in the object store, except checkpoints.")
    parser.add_argument("run", metavar="RUN", help=RUN_HELP)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where to; must not exist yet")
    parser = add("runs sync", sync, description="Upload to W&B what a run recorded and W&B lacks.")
    parser.add_argument("run", metavar="RUN", help=RUN_HELP)
    parser = add(
        "runs resume", resume, description="Continue a run from its last checkpoint, with the configuration it had."
    )
    parser.add_argument("run", metavar="RUN", help=RUN_HELP)
    parser.add_argument(
        "--launcher",
        choices=LAUNCHERS,
        help="as of `pippa train`; by default docker for a run that was trained in an image",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="also a run that reported within the last minute: only where you know that nothing of it is alive, such "
        "as when its machine is off. Otherwise it is trained twice.",
    )
    for name, counted in (("num_gpus", "GPUs"), ("num_nodes", "nodes")):
        help_text = f"continue with another number of {counted}; the global batch stays"
        parser.add_argument(flag(name), type=int, metavar="N", help=help_text)
    parser.add_argument(flag("fsdp"), action=Switch, help="continue with or without FSDP")
    help_text = "continue with this many GPUs to a copy of the model; 0 for all"
    parser.add_argument(flag("fsdp_devices"), type=int, metavar="N", help=help_text)
    parser = add("runs follow", follow, description="Watch a run on another machine. Ctrl-C stops watching.")
    parser.add_argument("run", metavar="RUN", help=RUN_HELP)
    parser = add("runs cancel", cancel, description="Stop a training; it saves and uploads a last checkpoint first.")
    parser.add_argument("run", metavar="RUN", help=RUN_HELP)


def show_all(arguments: Namespace) -> int:
    """``pippa runs list``"""
    from flows.views.run_list import as_documents, print_list
    from trainer.store.runs import list_runs

    damage: list[DamagedObjectError] = []
    found, status_of = [], _status_in(None)
    if not nothing_stored():
        store = opened_store()
        found, status_of = list_runs(store, damage), _status_in(store)
    found = [
        run
        for run in found
        if arguments.status in (None, status_of(run))
        and arguments.preset in (None, run.spec.preset)
        and (arguments.dataset is None or arguments.dataset in [ref.name for ref in run.spec.datasets])
    ]
    found = newest(found, arguments.last)
    if arguments.json:
        print_json(as_documents(found, status_of))
    elif found:
        print_list(console(), found, status_of)
    elif arguments.status or arguments.preset or arguments.dataset:
        console().print("No run matches. `pippa runs list` lists all.")
    else:
        console().print("No runs yet. `pippa train smoke` is one.")
    note_damage(damage)
    return ExitCode.DONE


def _status_in(store: ObjectStore | None) -> Callable[[Run], str]:
    """What tells the status of a run of ``store``; ``lost`` is one that says it is active and is not alive."""
    from trainer.store import clock

    @cache
    def now() -> datetime:
        assert store is not None  # noqa: S101 - nothing is listed without one
        return clock.store_time(store)

    def status(run: Run) -> str:
        state = run.state
        if store is not None and (state is None or state.active):
            with suppress(StoreError):  # a full one has no time to tell
                if not lives(store, run.spec.run_id, state, now):
                    return "lost"
        return state.status if state else "preparing"

    known: dict[str, str] = {}
    return lambda run: known.get(run.spec.run_id) or known.setdefault(run.spec.run_id, status(run))


def show(arguments: Namespace) -> int:
    """``pippa runs show RUN``"""
    store = existing_store("run")
    from flows.views.report import build_report, print_report, to_markdown

    report = build_report(store, arguments.run)
    screen = console()
    if arguments.json:
        print_json(report.model_dump(mode="json"))
    elif arguments.markdown:
        screen.file.write(to_markdown(report) + "\n")
    else:
        print_report(screen, report)
    return ExitCode.DONE


def compare(arguments: Namespace) -> int:
    """``pippa runs compare A B …``"""
    chosen = list(dict.fromkeys(arguments.runs))
    if len(chosen) < 2:
        raise UsageError("One run alone can't be compared.", f"Name another one, or `pippa runs show {chosen[0]}`.")
    if arguments.output is not None and arguments.output.is_dir():
        raise UsageError(f"{arguments.output} is a folder.", f"Name a file: --output {arguments.output / 'runs.html'}")
    store = existing_store("run")
    from flows.views import comparison

    found = comparison.compare(store, chosen)
    if arguments.output is not None:
        from flows.views.comparison_page import build_comparison_page

        arguments.output.expanduser().write_text(build_comparison_page(found), encoding="utf-8")
    if arguments.json:
        print_json(comparison.as_document(found))
    else:
        comparison.print_comparison(console(), found)
    return ExitCode.DONE


def pull(arguments: Namespace) -> int:
    """``pippa runs pull RUN FOLDER``"""
    folder = arguments.folder.expanduser()
    if folder.exists():
        raise UsageError(f"{folder} exists already.", "Name a folder that does not.")
    store = existing_store("run")
    from trainer.store import runs

    runs.read_spec(store, arguments.run)
    written = runs.download_folder(store, arguments.run, "", folder)
    console().print(f"[green]✓[/] {len(written)} files are in {escape(str(folder))}", soft_wrap=True)
    return ExitCode.DONE


def sync(arguments: Namespace) -> int:
    """``pippa runs sync RUN``"""
    store = existing_store("run")
    with tempfile.TemporaryDirectory() as temporary:
        from trainer.runner.wandb_setup import in_order
        from trainer.store import runs

        runs.read_spec(store, arguments.run)
        folder = Path(temporary) / "wandb"
        runs.download_folder(store, arguments.run, "wandb", folder)
        # W&B joins them in this order.
        parts = in_order(part for part in folder.glob("*") if part.is_dir())
        if not parts:
            raise UsageError(f"{arguments.run} recorded nothing that W&B lacks.", f"`pippa runs show {arguments.run}`.")
        key = secret_from(os.environ, "WANDB_API_KEY")
        environ = {**without_secrets(os.environ, SECRETS), **({"WANDB_API_KEY": key} if key else {})}
        uploaded = _wandb_sync(parts, environ)
    if not uploaded:
        raise PippaError(
            "The upload to W&B failed.",
            "Run `wandb login`, or set WANDB_API_KEY, and try again; the run's files stay in the store.",
        )
    return ExitCode.DONE


def resume(arguments: Namespace) -> int:
    """``pippa runs resume RUN``"""
    devices = {name: count for name in DEVICE_FIELDS if (count := getattr(arguments, name)) is not None}
    if chosen_launcher(arguments.launcher) == "remote":
        if devices:
            raise UsageError("A worker trains a run as it was started.", f"Leave {', '.join(map(flag, devices))} out.")
        if not RUN_ID.fullmatch(arguments.run):
            raise UsageError(f"{arguments.run!r} is not a run id.", "`pippa runs` lists them.")
        return submit_and_follow(None, {}, None, arguments.run, None)
    store = existing_store("run")
    spec, state = resumable(store, arguments.run)
    launcher = chosen_launcher(arguments.launcher, launcher_of(spec))
    assert launcher != "remote"  # noqa: S101 - that was seen to above
    spec, _ = placed(spec, devices, "pippa runs resume")
    if (node := this_node(spec.config.num_nodes)).rank:
        from flows.launch import gpu_locks

        with (
            Signals() as signals,
            gpu_locks.held_on_node(pippa_home(), spec.run_id, spec.config.num_gpus, console().print) as environ,
        ):
            return join(store, spec, node, signals, environ)
    if not arguments.force:
        require_not_elsewhere(store, spec, state, launcher)
    return run_training(spec.preset, {}, launcher, arguments.run, None, spec.engine, devices)


def follow(arguments: Namespace) -> int:
    """``pippa runs follow RUN``"""
    with connected() as client:
        from flows.orchestration import remote

        return follow_to_end(client, remote.find(client, arguments.run), console())


def cancel(arguments: Namespace) -> int:
    """``pippa runs cancel RUN``"""
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
    command = [sys.executable, "-m", "wandb", "sync", "--include-online", *map(str, parts)]
    said_error = False
    with subprocess.Popen(
        command,
        env=environ,
        cwd=parts[0].parent,  # it leaves logs in the folder it runs in
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for line in process.stdout or ():
            sys.stderr.write(line)
            said_error |= "ERROR" in line
    return process.returncode == 0 and not said_error
