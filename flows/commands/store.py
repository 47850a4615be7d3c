"""``pippa store``: the object store itself."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape

from flows.cli import Parser
from flows.commands import ByteBar, console, opened_store
from trainer.errors import ExitCode
from trainer.store.stores import open_store


def check(argv: Sequence[str]) -> int:
    """``pippa store check``"""
    parser = Parser(
        "pippa store check",
        description="Look for what is damaged in the object store. Exit code 8 says that something is.",
    )
    parser.add_argument(
        "--repair", action="store_true", help="restore what can be, and move the rest to quarantine/ in the store"
    )
    parser.add_argument("--contents", action="store_true", help="also read and hash every file, not only its size")
    arguments = parser.parse_args(argv)
    store = opened_store()
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


def create(argv: Sequence[str]) -> int:
    """``pippa store create``"""
    Parser("pippa store create", description="Create the bucket (or folder) of the settings.").parse_args(argv)
    store = open_store()
    store.create()
    console().print(f"[green]✓[/] {escape(store.address)} is there.", soft_wrap=True)
    return ExitCode.DONE
