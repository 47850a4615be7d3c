"""The commands of ``pippa``, one module per first word, and what they share.

A module's ``commands(add, words)`` declares its commands: ``add`` gives each its parser and the function behind it,
``function(namespace) -> exit code``; ``words`` are those typed after the first.
"""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn
from rich.table import Table

from flows import compose_discovery, earlier_store
from flows.views.terminal import PLAIN_SECONDS, waiting
from trainer.command_line import Parser
from trainer.config.settings import pippa_home
from trainer.disk import private_folder
from trainer.errors import DamagedObjectError
from trainer.events import every
from trainer.store import stores
from trainer.store.object_store import ObjectStore

PIPE_WIDTH = 160

T = TypeVar("T")


def console() -> Console:
    """For results: stdout, without colouring what looks like a number."""
    wide = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(highlight=False, width=PIPE_WIDTH if wide else None)


def notes() -> Console:
    """For what is not the result: stderr."""
    return Console(stderr=True, highlight=False)


def columns(*headings: str) -> Table:
    """A table without lines; without headings, titles and their values."""
    table = Table(box=None, show_header=bool(headings), pad_edge=False, padding=(0, 3, 0, 0))
    for heading in headings or ("", ""):
        table.add_column(heading, overflow="fold")
    table.columns[0].no_wrap = True
    return table


class Add(Protocol):
    """Adds a command to the parser of all commands."""

    def __call__(self, words: str, run: Callable[[Namespace], int], *, description: str = "", **options: Any) -> Parser:
        """The parser of the command ``words``, for its arguments; ``run(namespace)`` returns the exit code.

        ``description`` stands in for the command's summary, ``options`` are those of ``Parser``.
        """
        ...


def add_json(parser: Parser) -> None:
    """``--json``, which every list and show has."""
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def print_json(document: Any) -> None:
    """Write ``document`` to stdout."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, default=str) + "\n")


def add_last(parser: Parser) -> None:
    """``--last``, which the lists that grow have."""
    parser.add_argument("--last", type=int, metavar="N", help="only the N newest")


def newest(found: Sequence[T], count: int | None) -> Sequence[T]:
    """The last ``count`` of what is listed the oldest first; None means all."""
    return found if count is None else found[max(len(found) - count, 0) :]


def nothing_stored() -> bool:
    """Whether this machine has no object store yet, so that a list of what is in it need not create one."""
    _look_around(pippa_home())
    return not os.environ.get("PIPPA_S3_ENDPOINT") and not stores.store_folder(pippa_home()).is_dir()


def opened_store() -> ObjectStore:
    """The object store of the settings, the compose stack's, or this machine's folder, created unless it exists."""
    private_folder(pippa_home())
    _look_around(pippa_home())
    store = stores.open_store()
    store.open()
    return store


def existing_store(kind: stores.Kind) -> ObjectStore:
    """The same for a command that reads a ``kind`` of it, and makes no folder. Raises ``UsageError`` without one."""
    _look_around(pippa_home())
    store = stores.existing_store(kind)
    store.open()
    return store


def _look_around(home: Path) -> None:
    compose_discovery.adopt(home)
    earlier_store.note(home)


def note_damage(damage: Sequence[DamagedObjectError]) -> None:
    """Say on stderr what a list leaves out because it is damaged."""
    for error in damage:
        notes().print(f"[yellow]not shown:[/] {escape(error.message)}", soft_wrap=True)
    if damage:
        notes().print("`pippa store check --repair` restores it or takes it out of the way.", soft_wrap=True)


@contextmanager
def spinner(text: str) -> Generator[None]:
    """A spinner on stderr while something takes its time."""
    with waiting(notes(), text):
        yield


class ByteBar:
    """A progress bar on stderr for ``progress(done, total)`` in bytes; nothing without a terminal."""

    figures: type[ProgressColumn] = DownloadColumn

    def __init__(self, title: str) -> None:
        screen = notes()
        parts = (TextColumn("{task.description}"), BarColumn(), self.figures())
        self._progress = Progress(*parts, console=screen, transient=True, disable=not screen.is_terminal)
        self._task = self._progress.add_task(escape(title), total=None)

    def __enter__(self) -> Callable[[int, int], None]:
        self._progress.start()
        return lambda done, total: self._progress.update(self._task, completed=done, total=total)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


class FileBar(ByteBar):
    """The same in files; without a terminal, a line at the beginning and one now and then."""

    figures = MofNCompleteColumn

    def __init__(self, title: str) -> None:
        super().__init__(title)
        self._title = title

    def __enter__(self) -> Callable[[int, int], None]:
        screen, shown = notes(), super().__enter__()
        if screen.is_terminal:
            return shown
        screen.print(escape(self._title), soft_wrap=True)
        return every(PLAIN_SECONDS, lambda done, of: screen.print(f"{done:,} of {of:,} files", soft_wrap=True))
