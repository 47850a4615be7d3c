"""``pippa checkpoints``: the registry, and the files behind it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rich.markup import escape

from flows.cli import Parser
from flows.commands import ByteBar, columns, console, note_damage, notes, nothing_stored, opened_store, spinner
from flows.views.terminal import size
from trainer.errors import DamagedObjectError, ExitCode, StoreError, UsageError

NAME_HELP = "RUN/STEP, RUN (its newest), or an alias such as latest or smoke/best"


def show_all(argv: Sequence[str]) -> int:
    """``pippa checkpoints list``"""
    parser = Parser("pippa checkpoints list", description="List registered checkpoints, the oldest first.")
    parser.add_argument("run", nargs="?", help="only those of this run")
    arguments = parser.parse_args(argv)
    screen = console()
    if nothing_stored():
        screen.print("No checkpoints yet. `pippa train smoke` makes some.")
        return ExitCode.DONE
    store = opened_store()
    from trainer.store import registry, runs

    if arguments.run:
        runs.read_spec(store, arguments.run)
    damage: list[DamagedObjectError] = []
    entries = registry.list_checkpoints(store, arguments.run, damage)
    names: dict[str, list[str]] = {}
    for alias, target in sorted(registry.aliases(store, damage).items()):
        names.setdefault(target, []).append(alias)
    table = columns("checkpoint", "size", "created", "open-loop MSE", "aliases")
    for entry in entries:
        mse = entry.metrics.get(registry.BEST_METRIC)
        table.add_row(
            escape(entry.name),
            size(entry.bytes_total),
            f"{entry.created:%F %R}",
            f"{mse:.4g}" if mse is not None else "",
            f"[cyan]{escape(', '.join(names.get(entry.name, [])))}[/]",
        )
    screen.print(table)
    note_damage(damage)
    return ExitCode.DONE


def show(argv: Sequence[str]) -> int:
    """``pippa checkpoints show NAME``"""
    parser = Parser("pippa checkpoints show", description="One checkpoint: its lineage and metrics.")
    parser.add_argument("name", help=NAME_HELP)
    parser.add_argument("--json", action="store_true", help="the registry's own document")
    arguments = parser.parse_args(argv)
    store = opened_store()
    from trainer.store import manifest, registry

    entry = registry.resolve(store, arguments.name)
    names = sorted(alias for alias, target in registry.aliases(store).items() if target == entry.name)
    license_ = ""
    with suppress(StoreError):  # a damaged base model says nothing against the checkpoint
        license_ = manifest.read_manifest(store, entry.spec.base_model).origin.get("license", "")
    screen = console()
    if arguments.json:
        screen.file.write(entry.model_dump_json(indent=2) + "\n")
        return ExitCode.DONE
    spec = entry.spec
    table = columns()
    for title, value in {
        "checkpoint": entry.name,
        "aliases": ", ".join(names),
        "digest": entry.snapshot.digest,
        "size": size(entry.bytes_total),
        "created": f"{entry.created:%F %R} UTC",
        "preset": spec.preset,
        "changed by flags": ", ".join(name for name, origin in spec.provenance.items() if origin == "flag")
        or "nothing",
        "dataset": ", ".join(f"{ref.name}@{ref.digest}" for ref in spec.datasets),
        "base model": f"{spec.base_model.name}@{spec.base_model.digest}" + (f", {license_}" if license_ else ""),
        "engine": f"{spec.engine}, pippa {spec.git_sha or 'of unknown commit'}"
        + (f", image {spec.image}" if spec.image else ""),
        "W&B": entry.wandb_run or f"{spec.wandb.entity}/{spec.wandb.project}/{spec.wandb.run_id}",
        **{name: f"{value:.6g}" for name, value in entry.metrics.items()},
    }.items():
        table.add_row(f"[dim]{escape(title)}[/]", escape(value))
    screen.print(table)
    return ExitCode.DONE


def pull(argv: Sequence[str]) -> int:
    """``pippa checkpoints pull NAME FOLDER``"""
    parser = Parser("pippa checkpoints pull", description="Download a checkpoint; every file is verified.")
    parser.add_argument("name", help=NAME_HELP)
    parser.add_argument("folder", type=Path, help="where to; must not exist yet")
    parser.add_argument(
        "--fallback", action="store_true", help="where it is damaged, take the newest good one before it of its run"
    )
    arguments = parser.parse_args(argv)
    store, folder = opened_store(), arguments.folder.expanduser()
    from trainer.store import fallback, registry, snapshots

    with ByteBar(f"pulling {arguments.name}") as progress:
        if arguments.fallback:
            entry = fallback.pull_newest_good(store, arguments.name, folder, skipped=_skipped, progress=progress)
        else:
            entry = registry.resolve(store, arguments.name)
            snapshots.pull(store, entry.snapshot, folder, progress=progress)
    console().print(f"[green]✓[/] {escape(entry.name)} is in {escape(str(folder.absolute()))}", soft_wrap=True)
    return ExitCode.DONE


def _skipped(name: str, error: StoreError) -> None:
    notes().print(f"[yellow]skipped {escape(name)}:[/] {escape(error.message)}", soft_wrap=True)


def verify(argv: Sequence[str]) -> int:
    """``pippa checkpoints verify NAME``"""
    parser = Parser("pippa checkpoints verify", description="Read and hash every file of a checkpoint in the store.")
    parser.add_argument("name", help=NAME_HELP)
    arguments = parser.parse_args(argv)
    store = opened_store()
    from trainer.store import registry, snapshots

    entry = registry.resolve(store, arguments.name)
    with spinner(f"Reading {size(entry.bytes_total)} of {entry.name}"):
        problems = snapshots.verify(store, entry.snapshot)
    if problems:
        raise DamagedObjectError(
            f"{entry.name} is damaged:\n" + "\n".join(f"- {problem}" for problem in problems),
            f"`pippa checkpoints pull {entry.name} FOLDER --fallback` takes the newest good one before it.",
        )
    console().print(f"[green]✓[/] {escape(entry.name)} is intact ({size(entry.bytes_total)})")
    return ExitCode.DONE


def alias(argv: Sequence[str]) -> int:
    """``pippa checkpoints alias ALIAS NAME``"""
    parser = Parser("pippa checkpoints alias", description="Give a checkpoint a name; gc keeps what has one.")
    parser.add_argument("alias", help="such as table-cleanup/good")
    parser.add_argument("name", nargs="?", help=NAME_HELP)
    parser.add_argument("--remove", action="store_true", help="forget the alias; the checkpoint stays")
    arguments = parser.parse_args(argv)
    if (arguments.name is None) != arguments.remove:
        raise UsageError("Name the checkpoint, or --remove the alias.", parser.format_usage().strip())
    store = opened_store()
    from trainer.store import registry

    if arguments.remove:
        registry.remove_alias(store, arguments.alias)
        console().print(f"[green]✓[/] {escape(arguments.alias)} is no name any more")
        return ExitCode.DONE
    registry.check_alias(arguments.alias)
    entry = registry.resolve(store, arguments.name)
    registry.set_alias(store, arguments.alias, entry)
    console().print(f"[green]✓[/] {escape(arguments.alias)} is {escape(entry.name)}")
    return ExitCode.DONE


def gc(argv: Sequence[str]) -> int:
    """``pippa checkpoints gc``"""
    parser = Parser(
        "pippa checkpoints gc",
        description="What nothing refers to any more. Checkpoints with an alias, those of running runs, and the newest "
        "of each run always stay.",
    )
    parser.add_argument("--keep", type=int, metavar="N", help="also drop all but the N newest checkpoints of each run")
    parser.add_argument("--keep-every", type=int, metavar="N", help="also drop those whose step is no multiple of N")
    parser.add_argument("--keep-best", action="store_true", help="with --keep: not the best of each run either")
    parser.add_argument("--delete", action="store_true", help="delete it; without this nothing is touched")
    arguments = parser.parse_args(argv)
    store = opened_store()
    with spinner("Looking through the object store"):
        from trainer.store.gc import collect

        found = collect(
            store,
            keep=arguments.keep,
            every=arguments.keep_every,
            keep_best=arguments.keep_best,
            dry_run=not arguments.delete,
        )
    screen = console()
    for name in found.checkpoints:
        screen.print(f"checkpoint {escape(name)}")
    for ref in found.snapshots:
        screen.print(f"{ref.kind} {escape(str(ref))}")
    done = "freed" if arguments.delete else "would be freed; --delete does it"
    screen.print(f"{found.blobs} files, {size(found.bytes_freed)} {done}")
    for line in (*(error.message for error in found.damage), *found.withheld):
        notes().print(f"[yellow]![/] {escape(line)}", soft_wrap=True)
    return ExitCode.DONE
