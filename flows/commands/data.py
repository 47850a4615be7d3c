"""``pippa data``: datasets in the object store, and the check of one before it gets there."""

from __future__ import annotations

import shlex
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from rich.console import Console
from rich.markup import escape

from flows.commands import (
    Add,
    ByteBar,
    FileBar,
    add_json,
    columns,
    console,
    existing_store,
    note_damage,
    notes,
    nothing_stored,
    opened_store,
    print_json,
)
from flows.views.terminal import counted, size, task_text
from trainer.command_line import Parser
from trainer.config.data_options import DataOptions
from trainer.config.settings import pippa_home
from trainer.data.configs import DataConfig, declared, declared_here
from trainer.data.problem import Problem
from trainer.data.rules import rules_of
from trainer.errors import DamagedObjectError, DatasetError, ExitCode, UsageError
from trainer.generation import DEFAULT
from trainer.importers.names import Folder
from trainer.importers.origin import changes_text, origin_text

if TYPE_CHECKING:
    from trainer.data.overview import Overview

SOURCES = (
    "OWNER/NAME[@REVISION] of the Hugging Face hub, git+https://…@REF#FOLDER, s3://BUCKET/PREFIX, ./FOLDER, "
    "robot_sim.PickNPlace (Isaac-GR00T's demo data), synthetic.PickNPlace"
)

TASKS_SHOWN = 5


def commands(add: Add, words: Sequence[str]) -> None:  # noqa: ARG001
    """The commands of ``pippa data``."""
    parser = add("data list", show_all, description="List the datasets in the object store.")
    add_json(parser)
    parser = add("data check", check, description="Check a dataset folder against a data config, before training.")
    parser.add_argument("path", type=Path, help="folder of a LeRobot dataset")
    parser.add_argument("--data-config", help="name, or a file such as my_robot.toml (default: one that fits)")
    DataOptions.add_to(parser)
    parser = add("data push", push, description="Import a dataset folder into the object store.")
    parser.add_argument("path", type=Path, help="folder of a LeRobot dataset")
    _add_options(parser)
    parser = add("data add", add_dataset, description="Import a dataset of the hub, git or S3 into the object store.")
    parser.add_argument("source", metavar="NAME", help=SOURCES)
    _add_options(parser)
    parser.add_argument("--refresh", action="store_true", help="ask the source for a newer version")
    parser = add("data pull", pull, description="Download a dataset from the object store; every file is verified.")
    parser.add_argument("name", help="NAME, or NAME@DIGEST for an older one")
    parser.add_argument("folder", type=Path, help="where to; must not exist yet")


def show_all(arguments: Namespace) -> int:
    """``pippa data list``"""
    return show_snapshots(
        "dataset",
        "No datasets yet. `pippa data add NAME` imports one, `pippa train smoke` makes one.",
        as_json=arguments.json,
    )


def show_snapshots(kind: Literal["dataset", "model"], nothing: str, *, as_json: bool) -> int:
    """List the snapshots of ``kind``, with where each came from; ``nothing`` says what to do when there is none."""
    from trainer.store.snapshots import list_snapshots

    screen = console()
    damage: list[DamagedObjectError] = []
    found = [] if nothing_stored() else list_snapshots(opened_store(), kind, damage)
    note_damage(damage)
    if as_json:
        print_json(
            [
                {
                    "name": info.ref.name,
                    "digest": info.ref.digest,
                    "files": info.files,
                    "bytes": info.bytes_total,
                    "created": info.created.isoformat(),
                    "origin": info.origin,
                }
                for info in found
            ]
        )
        return ExitCode.DONE
    if not found:
        screen.print(nothing)
        return ExitCode.DONE
    table = columns("dataset" if kind == "dataset" else "base model", "files", "size", "stored", "from")
    for short in table.columns[1:4]:
        short.no_wrap = True
    for info in found:
        table.add_row(
            escape(str(info.ref)),
            f"{info.files}",
            size(info.bytes_total),
            f"{info.created:%F %R}",
            escape(origin_text(info.origin)),
        )
    screen.print(table)
    return ExitCode.DONE


def check(arguments: Namespace) -> int:
    """``pippa data check PATH [--data-config X]``"""
    from trainer.data.info import load_info
    from trainer.data.overview import overview

    name, screen = str(arguments.path), console()
    options = DataOptions.of(arguments)
    config = arguments.data_config and rules_of(options.generation).declared(arguments.data_config)
    if config is None:
        if options.generation != DEFAULT.name:
            raise UsageError("Name the data config.", "--data-config so100, or a file such as arm.toml.")
        fitting = _fitting(name)
        config = declared(fitting[0])
        if others := ", ".join(map(str, fitting[1:])):
            screen.print(f"[dim]{escape(others)} would fit, too: choose with --data-config.[/]", soft_wrap=True)
    found = check_folder(name, config, options)
    folder = Folder(name).existing()
    screen.print(f"[green]✓[/] {escape(name)} can be trained on with {escape(str(config))}.")
    print_overview(screen, overview(folder, load_info(folder)))
    print_warnings(screen, found.warnings)
    for change in found.changes:
        screen.print(f"  {escape(change)} on import; the folder stays as it is.")
    return ExitCode.DONE


def _fitting(name: str) -> list[DataConfig]:
    """The data configs that fit the dataset folder ``name``: built-in ones, and files of the current folder.

    Raises ``DatasetError`` where there is none, with what the dataset has.
    """
    from trainer.data.dataset_meta import load_info, load_modality
    from trainer.data.known_robots import MODALITIES, fitting_name
    from trainer.data.overview import overview
    from trainer.data.proposal import fitting_configs

    folder = Folder(name).existing()
    info = load_info(folder)
    if (folder / "meta/modality.json").exists():
        modality = load_modality(folder)
    else:  # that of a known arm is added on import
        known = fitting_name(info)
        modality = MODALITIES[known] if known else None
    found = [] if modality is None else fitting_configs(modality, declared_here())
    if not found:
        print_overview(console(), overview(folder, info))
        lacks = "it has no meta/modality.json" if modality is None else "it has other cameras or joints"
        raise DatasetError(
            f"No data config fits {name}: {lacks}.",
            f"`pippa data init {shlex.quote(name)}` proposes what is missing.",
        )
    return found


def print_overview(screen: Console, found: Overview) -> None:
    """How much a dataset has."""
    rate = f" at {found.fps:g} fps" if found.fps else ""
    screen.print(f"  {counted(found.episodes, 'episode')} · {counted(found.frames, 'frame')}{_long(found.hours)}{rate}")
    screen.print(f"  cameras: {escape(', '.join(found.cameras)) or 'none'}", soft_wrap=True)
    shown = [escape(task_text(task)) for task in found.tasks[:TASKS_SHOWN]]
    more = len(found.tasks) - len(shown)
    screen.print(f"  tasks: {' · '.join(shown) or 'none'}{f' · {more} more' if more else ''}", soft_wrap=True)


def _long(hours: float | None) -> str:
    if hours is None:
        return ""
    seconds = hours * 3600
    return (
        f" · {hours:.1f} hours"
        if hours >= 1
        else f" · {seconds / 60:.1f} minutes"
        if seconds >= 60
        else f" · {seconds:.1f} s"
    )


def push(arguments: Namespace) -> int:
    """``pippa data push PATH``"""
    return _bring(str(arguments.path.expanduser().absolute()), arguments, refresh=False)


def add_dataset(arguments: Namespace) -> int:
    """``pippa data add NAME``"""
    return _bring(arguments.source, arguments, refresh=arguments.refresh)


def _add_options(parser: Parser) -> None:
    parser.add_argument("--name", help="its name in the store (default: the folder's or repository's)")
    parser.add_argument("--data-config", help="check it against this data config first")
    DataOptions.add_to(parser)


def _bring(source: str, arguments: Namespace, *, refresh: bool) -> int:
    from trainer import importers

    screen = notes()

    def log(line: str) -> None:
        screen.print(f"[dim]{escape(line)}[/]", soft_wrap=True)

    options = DataOptions.of(arguments)
    config = arguments.data_config and rules_of(options.generation).declared(arguments.data_config)
    warnings: list[Problem] = []
    if importers.is_folder(source):
        check_folder(source, config, options)  # before a store is started
    store = opened_store()
    with ByteBar(source) as report:
        ref = importers.dataset(
            store,
            source,
            importers.downloads_folder(pippa_home()),
            data_config=config,
            options=options,
            store_name=arguments.name,
            refresh=refresh,
            log=log,
            warn=warnings.append,
            report=report,
        )
    print_warnings(screen, warnings)
    console().print(
        f"[green]✓[/] {escape(str(ref))} is in the store\nTrain on it: pippa train PRESET --dataset-path {ref.name}"
    )
    return ExitCode.DONE


class CheckedFolder(NamedTuple):
    """A dataset folder that can be trained on."""

    changes: list[str]
    """What an import would change of it."""
    warnings: list[Problem]


def check_folder(name: str, data_config: str | DataConfig | None, options: DataOptions) -> CheckedFolder:
    """Check the dataset folder ``name``, with a bar while it takes its time. Raises ``DatasetError``."""
    from trainer.importers import downloads_folder
    from trainer.importers.normalize_dataset import normalized

    folder, work = Folder(name).existing(), downloads_folder(pippa_home())
    warnings: list[Problem] = []
    title = f"Checking {name}" + (f" against {data_config}" if data_config else "")
    with (
        FileBar(title) as progress,
        normalized(folder, data_config, name, work, options=options, warn=warnings.append, progress=progress) as (
            _,
            changed,
        ),
    ):
        return CheckedFolder(changes_text(changed), warnings)


def print_warnings(screen: Console, warnings: Sequence[Problem]) -> None:
    """What can be trained on and is probably not meant."""
    for warning in warnings:
        screen.print(f"[yellow]![/] {escape(warning.message)}\n  [dim]{escape(warning.fix)}[/]", soft_wrap=True)


def pull(arguments: Namespace) -> int:
    """``pippa data pull NAME FOLDER``"""
    store = existing_store("dataset")
    with ByteBar(f"pulling {arguments.name}") as progress:
        from trainer.store import snapshots

        name, _, digest = arguments.name.partition("@")
        known = snapshots.list_snapshots(store, "dataset")
        matching = [info for info in known if info.ref.name == name and info.ref.digest.startswith(digest)]
        if not matching:
            names = ", ".join(sorted({info.ref.name for info in known})) or "none yet"
            raise UsageError(f"There is no dataset {arguments.name} in the store.", f"There are: {names}.")
        # Listed the oldest first.
        ref = matching[-1].ref
        folder = snapshots.pull(store, ref, arguments.folder.expanduser(), progress=progress)
    console().print(f"[green]✓[/] {escape(str(ref))} is in {escape(str(folder))}")
    return ExitCode.DONE
