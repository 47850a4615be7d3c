"""``pippa train``, and the part of it that ``pippa runs resume`` shares."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from rich.console import Console
from rich.markup import escape

from flows import preflight
from flows.commands import Add, console
from flows.commands.data import check_folder, print_warnings
from flows.launch import LauncherName
from flows.views.failure import after_failure
from trainer.config.argv import Resolved
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.presets import DEFAULT, PRESETS
from trainer.config.run_spec import Engine, new_run_id
from trainer.config.settings import pippa_home
from trainer.config.training_flags import DESCRIPTION, add_training_flags, asked
from trainer.data.config_file import as_argument
from trainer.data.problem import Problem
from trainer.disk import private_folder
from trainer.errors import ExitCode, PippaError, UsageError
from trainer.events import Event
from trainer.importers import is_folder
from trainer.output import stdout_is_log
from trainer.runner.child_process import Signals
from trainer.runner.joining import JOB_HELP, join_job, require_job
from trainer.runner.nodes import this_node
from trainer.runner.run_spec_builder import engine_from
from trainer.store import jobs, runs
from trainer.store.object_store import ObjectStore
from trainer.store.stores import open_store

Where: TypeAlias = LauncherName | Literal["remote"]
LAUNCHERS: tuple[Where, ...] = ("process", "docker", "remote")

_EXAMPLES = (
    "pippa train smoke --max-steps 20",
    "pippa train blog --dataset-path ./my-robot --name kitchen --dry-run",
)


def commands(add: Add, words: Sequence[str]) -> None:
    """The command ``pippa train``."""
    description = f"Train a preset, show how it goes, and keep every checkpoint. {DESCRIPTION}"
    parser = add("train", train, collects=True, description=description)
    group = add_training_flags(parser, words, _EXAMPLES)
    group.add_argument(
        "--dry-run", action="store_true", help="show what would be trained and the engine's command; touch nothing"
    )
    group.add_argument("--job", metavar="ID", help=JOB_HELP)
    group.add_argument(
        "--launcher",
        choices=LAUNCHERS,
        help="where it trains: process (here, with this Python), docker (in its image, on this machine) or remote "
        "(where a `pippa worker` of the Prefect server PREFECT_API_URL is) [PIPPA_LAUNCHER, or process]",
    )
    group.add_argument(
        "--engine",
        choices=get_args(Engine),
        help="what trains it: pippa's own engine, or Isaac-GR00T in its image [PIPPA_ENGINE, or native]",
    )


def train(arguments: Namespace) -> int:
    """``pippa train [PRESET] [--flag …]``"""
    resolved, name = asked(arguments, "pippa train")
    preset, config, _ = resolved
    launcher, engine = chosen_launcher(arguments.launcher), arguments.engine or engine_from()
    if arguments.dry_run:
        preflight.require_resolvable(config, launcher, engine)
        return _dry_run(resolved, launcher, engine, check_folders(config))
    job, node = arguments.job, this_node(config.num_nodes)
    require_job(node, job)
    if job and launcher == "remote":
        raise UsageError("--job with --launcher remote: a worker's flow run is one training already.", "Leave it out.")
    preflight.require_startable(config, launcher, engine)
    if node.rank:
        from flows.launch import gpu_locks

        with (
            Signals() as signals,
            gpu_locks.held_on_node(pippa_home(), job, config.num_gpus, console().print) as environ,
        ):
            return join_job(_opened(), config, job, node, signals, environ)
    print_warnings(console(), check_folders(config))
    overrides = overrides_of(resolved)
    run_id = jobs.run_of(_opened(), job, name) if job else new_run_id(name)
    if job and (state := runs.read_state(_opened(), run_id)) and state.status == "done":
        console().print(f"{escape(run_id)} is done.")
        return ExitCode.DONE
    if launcher == "remote":
        from flows.commands.remote import submit_and_follow

        if preset.name not in PRESETS:
            # The worker does not know it: its values travel instead of its name.
            preset, overrides = DEFAULT, {**preset.values, **overrides}
        return submit_and_follow(preset.name, overrides, arguments.engine, run_id, config)
    return run_training(preset.name, overrides, launcher, run_id, resolved, engine)


def overrides_of(resolved: Resolved) -> dict[str, Any]:
    """What somebody changed of the preset, as plain values that Prefect can show."""
    _, config, provenance = resolved
    overrides = {field: getattr(config, field) for field, origin in provenance.items() if origin == "flag"}
    if "data_config" in overrides:
        overrides["data_config"] = as_argument(config.data_config)  # a text, as in Prefect's form
    if overrides.pop("modality_config_path", None):
        overrides["data_config"] = as_argument(config.data_config)  # what the file says, wherever it is trained
    return overrides


def _opened() -> ObjectStore:
    private_folder(pippa_home())
    store = open_store()
    store.open()
    return store


def _dry_run(resolved: Resolved, launcher: Where, engine: Engine, warnings: Sequence[Problem]) -> int:
    from flows.launch.machine import cards
    from flows.views.dry_run import print_plan
    from flows.views.forecast import plan

    preset, config, provenance = resolved
    needs = plan(config, launcher, engine, cards(launcher))
    print_plan(console(), preset, config, provenance, launcher, engine, needs)
    print_warnings(console(), warnings)
    return ExitCode.DONE


def run_training(
    preset: str,
    overrides: dict[str, Any],
    launcher: LauncherName,
    run_id: str,
    resolved: Resolved | None,
    engine: Engine,
    devices: Mapping[str, int] | None = None,
) -> int:
    """Start what is needed, train under the terminal's eyes, print the report; returns the exit code."""
    from flows.launch.machine import cards
    from flows.orchestration.startup import started
    from flows.orchestration.training import Request, Training
    from flows.views.forecast import plan, print_needs
    from trainer.runner.parent_watch import die_with_parent

    die_with_parent()  # a sweep that was killed leaves no training
    stdout_is_log()
    screen, home = console(), pippa_home()
    screen.print(f"[bold]{escape(run_id)}[/]")
    if resolved and (found := plan(resolved[1], launcher, engine, cards(launcher))):
        print_needs(screen, found)
    with started(home, run_id, resolved and resolved[1], screen, launcher, engine) as around:
        from flows.views.report import print_report
        from flows.views.terminal import Terminal

        request = Request(preset, overrides, launcher, engine, run_id)
        try:
            with Terminal(run_id, screen) as terminal, around.recorder.recording(request) as done:

                def observe(event: Event) -> None:
                    around.recorder(event)
                    terminal(event)

                trained = Training(around.store, request, observe, around.hold, resolved, devices=devices or {}).run()
                done(trained)
        except KeyboardInterrupt:
            _say_how_to_resume(screen, run_id)
            return ExitCode.INTERRUPTED
        except SystemExit:  # SIGTERM; the trainer has saved
            _say_how_to_resume(screen, run_id)
            raise
        except PippaError as error:
            _say_failure(screen, home, run_id, error)
            return error.exit_code
        if trained.interrupted:
            _say_how_to_resume(screen, run_id)
            return ExitCode.INTERRUPTED
        print_report(screen, trained.report)
        return ExitCode.DONE


def chosen_launcher(name: str | None, default: Where = "process") -> Where:
    """``name``, else ``PIPPA_LAUNCHER``, else ``default``. Raises ``UsageError`` for an unknown one."""
    name = name or os.environ.get("PIPPA_LAUNCHER") or default
    for launcher in LAUNCHERS:
        if launcher == name:
            return launcher
    raise UsageError(f"PIPPA_LAUNCHER is {name!r}.", f"The launchers are {', '.join(LAUNCHERS)}.")


def check_folders(config: FinetuneConfig) -> list[Problem]:
    """Check datasets that are folders here and now; what is odd about those that will do.

    Raises ``DatasetError`` with every problem and its fix.
    """
    warnings = []
    for name, options in zip(config.dataset_path, config.data_options, strict=True):
        if is_folder(name):
            warnings += check_folder(name, config.data_config, options).warnings
    return warnings


def _say_how_to_resume(screen: Console, run_id: str) -> None:
    screen.print(f"[yellow]![/] Stopped. To continue from its last checkpoint: [bold]pippa runs resume {run_id}[/]")


def _say_failure(screen: Console, home: Path, run_id: str, error: PippaError) -> None:
    sys.stdout.flush()
    sys.stderr.write(f"error: {error.message}\n" + (f"{error.hint}\n" if error.hint else ""))
    folder = home / "runs" / run_id
    logs = [file for name in ("log.txt", "trainer.log") if (file := folder / name).is_file()]
    if logs:
        screen.print(f"log   {escape(str(logs[0]))}", soft_wrap=True)
        screen.print(f"next  {after_failure(run_id, error.exit_code)}", soft_wrap=True)
