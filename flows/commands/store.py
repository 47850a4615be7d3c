"""``pippa store``: the object store itself."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from rich.markup import escape

from flows.commands import Add, ByteBar, console, existing_store
from trainer.errors import ExitCode
from trainer.store.stores import open_store


def commands(add: Add, words: Sequence[str]) -> None:  # noqa: ARG001
    """The commands of ``pippa store``."""
    parser = add(
        "store check",
        check,
        description="Look for what is damaged in the object store. Exit code 8 says that something is.",
    )
    parser.add_argument(
        "--repair", action="store_true", help="restore what can be, and move the rest to quarantine/ in the store"
    )
    parser.add_argument("--contents", action="store_true", help="also read and hash every file, not only its size")
    add("store create", create, description="Create the bucket (or folder) of the settings.")


def check(arguments: Namespace) -> int:
    """``pippa store check``"""
    store = existing_store("object store")
    from trainer.store.check import Check

    with ByteBar("reading the object store") as progress:
        problems = Check(store, repair=arguments.repair, contents=arguments.contents, progress=progress).run()
    screen = console()
    for problem in problems:
        sign = "[green]✓[/]" if problem.repaired else "[red]✗[/]"
        screen.print(f"{sign} {escape(problem.what)}\n  {escape(problem.cure)}", soft_wrap=True)
    left = sum(not problem.repaired for problem in problems)
    if not problems:
        screen.print(f"[green]✓[/] Nothing is damaged in {escape(store.address)}.", soft_wrap=True)
    elif left == 0:
        screen.print("All of it is repaired.")
    return ExitCode.DAMAGED if left else ExitCode.DONE


def create(arguments: Namespace) -> int:  # noqa: ARG001
    """``pippa store create``"""
    store = open_store()
    store.create()
    console().print(f"[green]✓[/] {escape(store.address)} is there.", soft_wrap=True)
    return ExitCode.DONE
