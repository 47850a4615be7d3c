"""``pippa report``: the page of a run."""

from __future__ import annotations

import webbrowser
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape

from flows.commands import Add, console, existing_store, notes, spinner
from flows.commands.runs import RUN_HELP
from trainer.config.settings import pippa_home
from trainer.errors import ExitCode, StoreError, UsageError


def commands(add: Add, words: Sequence[str]) -> None:  # noqa: ARG001
    """The command ``pippa report``."""
    parser = add(
        "report",
        run,
        description="Write the page of a run: verdict, curves, open loop, configuration, lineage. One HTML file that "
        "needs nothing else; it is kept in the store, too.",
    )
    parser.add_argument("run", metavar="RUN", help=RUN_HELP)
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to; default: the run's folder here")
    parser.add_argument("--open", action="store_true", help="open it in a browser")


def run(arguments: Namespace) -> int:
    """``pippa report RUN``"""
    store = existing_store("run")
    from flows.views.report import shown
    from flows.views.run_page import build_page
    from trainer.evaluation.recorded import PAGE
    from trainer.store import runs

    runs.read_spec(store, arguments.run)
    target = (arguments.output or pippa_home() / "runs" / arguments.run / PAGE).expanduser()
    if target.is_dir():
        raise UsageError(f"{target} is a folder.", f"Name a file: --output {target / 'report.html'}")
    with spinner(f"Drawing the page of {arguments.run}"):
        page = build_page(store, arguments.run)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page, encoding="utf-8")
    try:
        runs.write_file(store, arguments.run, PAGE, page.encode())
    except StoreError as error:
        notes().print(f"[yellow]![/] The store did not take the page: {escape(error.message)}", soft_wrap=True)
    console().print(f"[green]✓[/] {escape(shown(str(target.absolute())))}", soft_wrap=True)
    if arguments.open and not webbrowser.open(target.absolute().as_uri()):
        notes().print("[yellow]![/] No browser was found here: open the file yourself.", soft_wrap=True)
    return ExitCode.DONE
