"""``pippa data``: datasets in the object store, and the check of one before it gets there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape

from flows.cli import Parser
from flows.commands import ByteBar, columns, console, nothing_stored, opened_store, said
from flows.terminal import size
from trainer.errors import DatasetError, ExitCode, UsageError


def show_all(argv: Sequence[str]) -> int:
    """``pippa data list``"""
    Parser("pippa data list", description="List the datasets in the object store.").parse_args(argv)
    screen = console()
    if nothing_stored():
        screen.print("No datasets yet. `pippa data push PATH` adds one; `pippa train smoke` makes one.")
        return ExitCode.DONE
    with opened_store() as store:
        from trainer.store.snapshots import list_snapshots

        found = list_snapshots(store, "dataset")
    table = columns("dataset", "files", "size", "pushed", "from")
    for info in found:
        origin = ", ".join(f"{name} {value}" for name, value in info.origin.items() if "sha256" not in name)
        table.add_row(
            escape(str(info.ref)), f"{info.files}", size(info.bytes_total), f"{info.created:%F %R}", escape(origin)
        )
    screen.print(table)
    return ExitCode.DONE


def check(argv: Sequence[str]) -> int:
    """``pippa data check PATH --data-config X``"""
    parser = Parser("pippa data check", description="Check a dataset against a data config, in seconds.")
    parser.add_argument("path", type=Path, help="folder of a LeRobot v2 dataset")
    parser.add_argument("--data-config", required=True, help="name, or module.path:ClassName")
    arguments = parser.parse_args(argv)
    _check(arguments.path, arguments.data_config)
    console().print(f"[green]✓[/] {escape(str(arguments.path))} can be trained on with {arguments.data_config}.")
    return ExitCode.DONE


def push(argv: Sequence[str]) -> int:
    """``pippa data push PATH``"""
    parser = Parser("pippa data push", description="Put a dataset folder into the object store.")
    parser.add_argument("path", type=Path, help="folder of a LeRobot v2 dataset")
    parser.add_argument("--name", help="its name in the store (default: the folder's)")
    parser.add_argument("--data-config", help="check it against this data config first")
    arguments = parser.parse_args(argv)
    folder = arguments.path.expanduser().resolve()
    if arguments.data_config:
        _check(folder, arguments.data_config)
    elif not (folder / "meta" / "info.json").is_file():
        raise DatasetError(
            f"{arguments.path} is not a LeRobot dataset: it has no meta/info.json.",
            "Name the folder that has `meta`, `data` and `videos` in it.",
        )
    with opened_store() as store, ByteBar(f"pushing {folder.name}") as progress:
        from trainer.store import snapshots

        origin = {"folder": str(folder)}
        done = snapshots.push(store, folder, "dataset", arguments.name or folder.name, origin=origin, progress=progress)
    console().print(
        f"[green]✓[/] {escape(str(done.ref))}: {done.files} files, {size(done.bytes_total)}, "
        f"{size(done.bytes_uploaded)} of them new\nTrain on it: pippa train PRESET --dataset-path {done.ref.name}"
    )
    return ExitCode.DONE


def pull(argv: Sequence[str]) -> int:
    """``pippa data pull NAME FOLDER``"""
    parser = Parser("pippa data pull", description="Download a dataset from the object store, verified.")
    parser.add_argument("name", help="NAME, or NAME@DIGEST for an older one")
    parser.add_argument("folder", type=Path, help="where to; must not exist yet")
    arguments = parser.parse_args(argv)
    with opened_store() as store, ByteBar(f"pulling {arguments.name}") as progress:
        from trainer.store import snapshots

        name, _, digest = arguments.name.partition("@")
        known = snapshots.list_snapshots(store, "dataset")
        matching = [info for info in known if info.ref.name == name and info.ref.digest.startswith(digest)]
        if not matching:
            names = ", ".join(sorted({info.ref.name for info in known})) or "none"
            raise UsageError(f"There is no dataset {arguments.name} in the store.", f"There are: {names}.")
        # Listed the oldest first.
        ref = matching[-1].ref
        folder = snapshots.pull(store, ref, arguments.folder.expanduser(), progress=progress)
    console().print(f"[green]✓[/] {escape(str(ref))} is in {escape(str(folder))}")
    return ExitCode.DONE


def _check(folder: Path, data_config: str) -> None:
    from trainer.sources import require_valid

    with said(f"Checking {folder} against {data_config}"):
        require_valid(folder.expanduser(), data_config, str(folder))
