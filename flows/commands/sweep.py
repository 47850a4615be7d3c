"""``pippa sweep``: a grid of trainings, then their comparison."""

from __future__ import annotations

import os
import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

from rich.console import Console
from rich.markup import escape

from flows import preflight
from flows.commands import Add, columns, console, nothing_stored, opened_store
from flows.commands.data import print_warnings
from flows.commands.remote import connected
from flows.commands.train import LAUNCHERS, Where, check_folders, chosen_launcher
from trainer.config.grid import Grid, asked_grid
from trainer.config.run_spec import Engine
from trainer.config.settings import pippa_home
from trainer.config.training_flags import add_training_flags
from trainer.errors import ExitCode, PippaError
from trainer.output import stdout_is_log
from trainer.runner.run_spec_builder import engine_from
from trainer.runner.wandb_setup import GROUP

if TYPE_CHECKING:
    from flows.orchestration.sweep import SweepTraining
    from trainer.store.object_store import ObjectStore

_DESCRIPTION = (
    "Train every combination of the values that flags have, and compare the runs. Each flag of `pippa train` takes "
    "several values: `--learning-rate 1e-4 5e-4`; what is on or off takes both its flags, `--tune-llm --no-tune-llm`; "
    "--dataset-path, whose values make a mixture, is given once for each. The same command typed again continues what "
    "was interrupted, tries again what failed, and trains nothing twice."
)
_EXAMPLES = (
    "pippa sweep smoke --learning-rate 1e-3 3e-3 --batch-size 4 8",
    "pippa sweep blog --dataset-path my-robot --max-steps 5000 10000 --name kitchen --dry-run",
)


def commands(add: Add, words: Sequence[str]) -> None:
    """The command ``pippa sweep``."""
    parser = add("sweep", sweep, collects=True, description=_DESCRIPTION)
    group = add_training_flags(parser, words, _EXAMPLES, several=True)
    group.add_argument("--dry-run", action="store_true", help="show the grid, and what is done of it; touch nothing")
    group.add_argument("--launcher", choices=LAUNCHERS, help="as of `pippa train` [PIPPA_LAUNCHER, or process]")
    group.add_argument("--engine", choices=get_args(Engine), help="as of `pippa train` [PIPPA_ENGINE, or native]")


def sweep(arguments: Namespace) -> int:
    """``pippa sweep PRESET --flag A B …``"""
    grid = asked_grid(arguments, "pippa sweep")
    launcher, engine = chosen_launcher(arguments.launcher), arguments.engine or engine_from()
    _require(grid, launcher, engine, dry_run=arguments.dry_run)
    screen = console()
    from flows.orchestration.sweep import Queue, at_once, command

    found = _trainings(grid, launcher, engine)
    lanes = at_once(grid, launcher)
    pending = [(each, command(grid, each, launcher, engine)) for each in found if each.plan != "done"]
    screen.print(f"[bold]{escape(grid.name)}[/]: {_heading(len(found), len(pending), lanes)}", soft_wrap=True)
    if arguments.dry_run:
        _print_grid(screen, found)
        return ExitCode.DONE
    stdout_is_log()
    if lanes > 1 and len(pending) > 1:
        for each, _ in pending:
            each.log = pippa_home() / "logs" / grid.name / f"{each.number}.log"

    def began(training: SweepTraining) -> None:
        log = f"  [dim]{escape(str(training.log))}[/]" if training.log else ""
        screen.print(f"\n[bold]{training.number}/{len(found)}[/] {escape(training.point.label)}{log}", soft_wrap=True)

    def ended(training: SweepTraining) -> None:
        if training.failed:
            screen.print(f"[red]✗[/] {_name(training)}: exit code {training.exit_code}", soft_wrap=True)
        else:
            screen.print(f"[green]✓[/] {_name(training)}", soft_wrap=True)

    stopped = Queue(lanes, {GROUP: grid.name}, began, ended).run(pending)
    if stopped is not None:
        screen.print(
            f"\n[yellow]![/] Stopped. To continue it: [bold]{escape(shlex.join(['pippa', *sys.argv[1:]]))}[/]",
            soft_wrap=True,
        )
        if isinstance(stopped, SystemExit):
            raise stopped
        return ExitCode.INTERRUPTED
    _print_end(screen, grid, launcher, engine, found)
    return next((each.exit_code for each in found if each.failed and each.exit_code), ExitCode.DONE)


def _require(grid: Grid, launcher: Where, engine: Engine, *, dry_run: bool) -> None:
    """Raise one ``PippaError`` with everything that would stop any training of the grid."""
    require = preflight.require_resolvable if dry_run else preflight.require_startable
    errors: dict[str, PippaError] = {}
    for point in grid.points:
        try:
            require(point.config, launcher, engine)
        except PippaError as error:
            errors.setdefault(error.message, error)
    if errors:
        first = next(iter(errors.values()))
        lines = dict.fromkeys(line for message in errors for line in message.splitlines())
        raise type(first)("\n".join(lines), first.hint)
    checked = {}
    for point in grid.points:
        config = point.config
        key = (tuple(config.dataset_path), str(config.data_config), tuple(config.data_options))
        if key not in checked:
            checked[key] = check_folders(config)
            print_warnings(console(), checked[key])


def _store(launcher: Where) -> ObjectStore | None:
    """The store with the runs; None where there is none yet, or it is another machine's."""
    if nothing_stored() or (launcher == "remote" and not os.environ.get("PIPPA_S3_ENDPOINT")):
        return None
    return opened_store()


def _trainings(grid: Grid, launcher: Where, engine: Engine) -> list[SweepTraining]:
    from flows.orchestration.sweep import in_store, submitted, trainings

    if launcher == "remote":
        with connected() as client:
            return trainings(grid, submitted(client, grid, engine))
    store = _store(launcher)
    return trainings(grid, in_store(store, grid, engine) if store else [])


def _heading(count: int, pending: int, lanes: int) -> str:
    parts = [f"{count} training{'' if count == 1 else 's'}"]
    if pending < count:
        parts.append(f"{count - pending} done already")
    if lanes > 1 and pending > 1:
        parts.append(f"{min(lanes, pending)} at a time")
    return ", ".join(parts)


_PLANS = {"done": "done", "resume": "resumed", "follow": "training already", "start": "new"}


def _print_grid(screen: Console, found: Sequence[SweepTraining]) -> None:
    from flows.views.presets_table import gpu_memory

    table = columns("", "flags", "", "memory of each GPU")
    for each in found:
        run = f" {each.run_id}" if each.run_id and each.plan != "start" else ""
        memory = gpu_memory(each.point.config)
        table.add_row(str(each.number), escape(each.point.label), escape(f"{_PLANS[each.plan]}{run}"), escape(memory))
    screen.print(table)


def _name(training: SweepTraining) -> str:
    return f"{training.number} {escape(training.point.label)}"


def _print_end(screen: Console, grid: Grid, launcher: Where, engine: Engine, found: Sequence[SweepTraining]) -> None:
    """The comparison of what was trained, and what failed."""
    run_ids = [each.run_id for each in _trainings(grid, launcher, engine) if each.run_id]
    if len(run_ids) > 1 and (store := _store(launcher)):
        from flows.views.comparison import compare, print_comparison

        screen.print(f"\n[bold]{escape(grid.name)}[/]\n")
        print_comparison(screen, compare(store, run_ids))
    if len(run_ids) > 1:
        screen.print(f"\nto compare them: [bold]pippa runs compare {escape(' '.join(run_ids))}[/]", soft_wrap=True)
    if failed := [each for each in found if each.failed]:
        screen.print(
            f"\n[red]✗[/] {len(failed)} of {len(found)} failed; the same command tries them again:", soft_wrap=True
        )
        for each in failed:
            where = f"  {escape(str(each.log))}" if each.log else ""
            screen.print(f"  {_name(each)}: exit code {each.exit_code}{where}", soft_wrap=True)
