"""``pippa train``, and the part of it that ``pippa runs resume`` shares."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from rich.console import Console
from rich.markup import escape

from flows.cli import Parser
from flows.commands import console
from flows.commands.data import check_folder, print_warnings
from flows.launch import LauncherName
from trainer.config.argv import Resolved, require_engine_can, resolve
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.presets import PRESETS
from trainer.config.run_spec import Engine, new_run_id
from trainer.config.settings import pippa_home
from trainer.data.config_file import as_argument
from trainer.data.problem import Problem
from trainer.errors import ExitCode, PippaError, UsageError
from trainer.events import Event
from trainer.runner.run_spec_builder import engine_from, require_engine_here

Where: TypeAlias = LauncherName | Literal["remote"]
LAUNCHERS: tuple[Where, ...] = ("process", "docker", "remote")

HELP = """\
usage: pippa train PRESET [--flag …] [--dry-run] [--launcher {launchers}] [--engine {engines}]

  --dry-run     show what would be trained and the engine's command line; touch nothing
  --launcher    where the trainer runs: process (here, with this Python), docker (in its image, on this engine) or
                remote (where a `pippa worker` of the Prefect server PREFECT_API_URL is); default: PIPPA_LAUNCHER
  --engine      what trains: pippa's own engine, or Isaac-GR00T in its image; default: PIPPA_ENGINE

Every argument of the preset can be given as a flag: `pippa train PRESET --help` lists them.
The presets are {presets}.
"""


def train(argv: Sequence[str]) -> int:
    """``pippa train PRESET [--flag …]``"""
    if not argv or argv[0].startswith("-"):
        if argv and argv[0] in ("-h", "--help"):
            words = {"launchers": ", ".join(LAUNCHERS), "engines": ", ".join(get_args(Engine))}
            sys.stdout.write(HELP.format(**words, presets=", ".join(PRESETS)))
            return ExitCode.DONE
        raise UsageError("Name a preset first: pippa train PRESET [--flag …]", f"The presets are {', '.join(PRESETS)}.")
    name, own, flags = argv[0], *_own_flags(argv[1:])
    resolved = preset, config, provenance = resolve(name, flags, "pippa train")
    warnings = _check_folders(config)
    engine = _engine(own.engine)
    require_engine_can(config, engine)
    if own.launcher == "process":
        require_engine_here(engine)
    if own.dry_run:
        from flows.launch.machine import cards
        from flows.views.dry_run import print_plan
        from flows.views.forecast import plan

        needs = plan(config, own.launcher, engine, cards(own.launcher))
        print_plan(console(), preset, config, provenance, own.launcher, engine, needs)
        print_warnings(console(), warnings)
        return ExitCode.DONE
    print_warnings(console(), warnings)
    overrides = {field: getattr(config, field) for field, origin in provenance.items() if origin == "flag"}
    if "data_config" in overrides:
        overrides["data_config"] = as_argument(config.data_config)  # a text, as in Prefect's form
    if own.launcher == "remote":
        from flows.commands.remote import submit_and_follow

        return submit_and_follow(name, overrides, engine if own.engine else None, new_run_id(name), config)
    return run_training(name, overrides, own.launcher, new_run_id(name), resolved, engine)


def run_training(
    preset: str,
    overrides: dict[str, Any],
    launcher: LauncherName,
    run_id: str,
    resolved: Resolved | None,
    engine: Engine,
) -> int:
    """Start what is needed, train under the terminal's eyes, print the report; returns the exit code."""
    from flows.launch.machine import cards
    from flows.orchestration.startup import started
    from flows.orchestration.training import Request, Training
    from flows.views.forecast import plan, print_needs

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

                trained = Training(around.store, request, observe, around.hold, resolved).run()
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


def _own_flags(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """``dry_run``, ``launcher`` and ``engine``, and the flags of the configuration that are left."""
    parser = Parser("pippa train", add_help=False, allow_abbrev=False)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--launcher", choices=LAUNCHERS)
    parser.add_argument("--engine", choices=get_args(Engine))
    own, rest = parser.parse_known_args(argv)
    own.launcher = chosen_launcher(own.launcher)
    return own, rest


def chosen_launcher(name: str | None, default: Where = "process") -> Where:
    """``name``, else ``PIPPA_LAUNCHER``, else ``default``. Raises ``UsageError`` for an unknown one."""
    name = name or os.environ.get("PIPPA_LAUNCHER") or default
    for launcher in LAUNCHERS:
        if launcher == name:
            return launcher
    raise UsageError(f"PIPPA_LAUNCHER is {name!r}.", f"The launchers are {', '.join(LAUNCHERS)}.")


def _engine(name: str | None) -> Engine:
    return next((engine for engine in get_args(Engine) if engine == name), None) or engine_from()


def _check_folders(config: FinetuneConfig) -> list[Problem]:
    """Check datasets that are folders here and now; what is odd about those that will do.

    Raises ``DatasetError`` with every problem and its fix.
    """
    from trainer.importers import is_folder
    from trainer.importers.generations import require_trainable

    require_trainable(config)
    warnings = []
    for name in config.dataset_path:
        if is_folder(name):
            warnings += check_folder(name, config.data_config, config.data_options).warnings
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
        screen.print(f"next  once that is mended: [bold]pippa runs resume {run_id}[/]", soft_wrap=True)
