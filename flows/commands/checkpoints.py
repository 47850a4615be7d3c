"""``pippa checkpoints``: the registry, and the files behind it."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rich.markup import escape

from flows.commands import (
    Add,
    ByteBar,
    add_json,
    add_last,
    columns,
    console,
    existing_store,
    newest,
    note_damage,
    notes,
    nothing_stored,
    opened_store,
    print_json,
    spinner,
)
from flows.views.terminal import size
from trainer.errors import DamagedObjectError, ExitCode, StoreError, UsageError

NAME_HELP = "RUN/STEP, RUN (its newest), or an alias such as latest or smoke/best"


def commands(add: Add, words: Sequence[str]) -> None:  # noqa: ARG001
    """The commands of ``pippa checkpoints``."""
    parser = add("checkpoints list", show_all, description="List registered checkpoints by run, the oldest first.")
    parser.add_argument("run", metavar="RUN", nargs="?", help="only those of this run")
    parser.add_argument("--preset", help="only those of this preset")
    parser.add_argument("--dataset", help="only those trained on this dataset")
    parser.add_argument("--alias", help="only those with this alias, or one below it (smoke for smoke/best)")
    add_last(parser)
    add_json(parser)
    parser = add("checkpoints show", show, description="Show a checkpoint: its lineage and metrics.")
    parser.add_argument("name", metavar="NAME", help=NAME_HELP)
    add_json(parser)
    parser = add("checkpoints pull", pull, description="Download a checkpoint; every file is verified.")
    parser.add_argument("name", metavar="NAME", help=NAME_HELP)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where to; must not exist yet")
    parser.add_argument(
        "--fallback", action="store_true", help="where it is damaged, take the newest good one before it of its run"
    )
    parser = add("checkpoints verify", verify, description="Read and hash every file of a checkpoint in the store.")
    parser.add_argument("name", metavar="NAME", help=NAME_HELP)
    parser = add(
        "checkpoints alias", alias, description="Give a checkpoint a name. Garbage collection keeps what has one."
    )
    parser.add_argument("alias", metavar="ALIAS", help="such as table-cleanup/good")
    parser.add_argument("name", metavar="NAME", nargs="?", help=NAME_HELP)
    parser.add_argument("--remove", action="store_true", help="remove the alias; the checkpoint stays")
    parser = add("checkpoints gc", gc, description=GC)
    parser.add_argument("--keep", type=int, metavar="N", help="also drop all but the N newest checkpoints of each run")
    parser.add_argument("--keep-every", type=int, metavar="N", help="also drop those whose step is no multiple of N")
    parser.add_argument("--keep-best", action="store_true", help="with --keep: not the best of each run either")
    parser.add_argument("--delete", action="store_true", help="delete it; without this nothing is touched")


GC = """\
List what nothing in the object store refers to any more, and with --delete remove it. Checkpoints with an alias, those
of active runs and the newest of each run always stay.

Files younger than the grace period of 24 hours stay too: they may belong to an upload that is not registered yet.
"""


def show_all(arguments: Namespace) -> int:
    """``pippa checkpoints list``"""
    from flows.views.checkpoint_list import as_documents, print_list
    from trainer.store import registry, runs

    found, names = [], {}
    damage: list[DamagedObjectError] = []
    if not nothing_stored():
        store = opened_store()
        if arguments.run:
            runs.read_spec(store, arguments.run)
        for name, target in sorted(registry.aliases(store, damage).items()):
            names.setdefault(target, []).append(name)
        found = [
            entry
            for entry in registry.list_checkpoints(store, arguments.run, damage)
            if arguments.preset in (None, entry.spec.preset)
            and (arguments.dataset is None or arguments.dataset in [ref.name for ref in entry.spec.datasets])
            and (arguments.alias is None or _has_alias(names.get(entry.name, []), arguments.alias))
        ]
    found = newest(found, arguments.last)
    if arguments.json:
        print_json(as_documents(found, names))
    elif found:
        print_list(console(), found, names)
    elif arguments.preset or arguments.dataset or arguments.alias:
        console().print("No checkpoint matches. `pippa checkpoints list` lists all.")
    else:
        console().print("No checkpoints yet. `pippa train smoke` makes some.")
    note_damage(damage)
    return ExitCode.DONE


def _has_alias(names: Sequence[str], wanted: str) -> bool:
    return any(name == wanted or name.startswith(f"{wanted}/") for name in names)


def show(arguments: Namespace) -> int:
    """``pippa checkpoints show NAME``"""
    store = existing_store("checkpoint")
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
        "W&B": entry.wandb_run or spec.wandb.path,
        **({"held out": f"{len(entry.held_out)} episodes"} if entry.held_out else {}),
        **({"evaluated": f"on {entry.evaluation.on}"} if entry.evaluation else {}),
        **{name: f"{value:.6g}" for name, value in entry.metrics.items()},
        **{name: f"decided on {why}" for name in names if (why := registry.rests_on(store, name))},
    }.items():
        table.add_row(f"[dim]{escape(title)}[/]", escape(value))
    screen.print(table)
    return ExitCode.DONE


def pull(arguments: Namespace) -> int:
    """``pippa checkpoints pull NAME FOLDER``"""
    store, folder = existing_store("checkpoint"), arguments.folder.expanduser()
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


def verify(arguments: Namespace) -> int:
    """``pippa checkpoints verify NAME``"""
    store = existing_store("checkpoint")
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


def alias(arguments: Namespace) -> int:
    """``pippa checkpoints alias ALIAS NAME``"""
    if (arguments.name is None) != arguments.remove:
        raise UsageError(
            "Name the checkpoint, or --remove the alias.",
            "`pippa checkpoints alias ALIAS NAME`, or `pippa checkpoints alias ALIAS --remove`.",
        )
    from trainer.store import registry

    if not arguments.remove:
        registry.check_alias(arguments.alias)
    store = existing_store("checkpoint")
    if arguments.remove:
        registry.remove_alias(store, arguments.alias)
        console().print(f"[green]✓[/] {escape(arguments.alias)} is removed")
        return ExitCode.DONE
    entry = registry.resolve(store, arguments.name)
    registry.set_alias(store, arguments.alias, entry)
    console().print(f"[green]✓[/] {escape(arguments.alias)} is {escape(entry.name)}")
    return ExitCode.DONE


def gc(arguments: Namespace) -> int:
    """``pippa checkpoints gc``"""
    store = existing_store("object store")
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
