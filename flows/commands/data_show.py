"""``pippa data show``: what a dataset holds, and what of it deserves a look, in the terminal and on a page."""

from __future__ import annotations

import re
import webbrowser
from argparse import Namespace
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.markup import escape

from flows.commands import Add, FileBar, add_json, console, notes, nothing_stored, opened_store, print_json, spinner
from trainer.config.data_options import DataOptions
from trainer.config.settings import pippa_home
from trainer.errors import ExitCode, UsageError
from trainer.importers import is_folder
from trainer.importers.names import Folder


def commands(add: Add, words: Sequence[str]) -> None:  # noqa: ARG001
    """The command ``pippa data show``."""
    parser = add(
        "data show",
        show,
        description="Show what a dataset holds, and what of it deserves a look: frozen pictures, jumps, idle stretches "
        "and the like. Writes one HTML file that needs nothing else.",
    )
    parser.add_argument("dataset", metavar="PATH|NAME", help="folder of a LeRobot dataset, or a name in the store")
    parser.add_argument(
        "--exclude-episodes", nargs="+", default=[], metavar="N", help="show it without these, such as 3 17 40-44"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="where the page goes")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    add_json(parser)


def show(arguments: Namespace) -> int:
    """``pippa data show PATH|NAME``"""
    name = arguments.dataset
    exclude = DataOptions.excluded(arguments.exclude_episodes)
    target = (arguments.output or _usual_target(name)).expanduser()
    if target.is_dir():
        raise UsageError(f"{target} is a folder.", f"Name a file: --output {target / 'dataset.html'}")
    # A bare word would be a name in the store.
    typed = f"./{name}" if Path(name).is_dir() and not is_folder(name) else name
    with _folder(name) as (folder, called), FileBar(f"Reading {called}") as progress:
        from trainer.data.profile.collect import profile
        from trainer.runner.cards import cards

        found = profile(folder, called, progress, exclude, as_planes=bool(cards()))
    if arguments.json:
        from flows.views.dataset import as_document

        print_json(as_document(found))
    if arguments.json and not (arguments.output or arguments.open):
        return ExitCode.DONE
    from flows.views.dataset import print_profile
    from flows.views.dataset_page import build_page
    from flows.views.report import shown

    with spinner(f"Drawing the page of {called}"):
        page = build_page(found, typed)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page, encoding="utf-8")
    if not arguments.json:
        print_profile(console(), found, typed)
        console().print(f"\n[green]✓[/] {escape(shown(str(target.absolute())))}", soft_wrap=True)
    if arguments.open and not webbrowser.open(target.absolute().as_uri()):
        notes().print("[yellow]![/] No browser was found here: open the file yourself.", soft_wrap=True)
    return ExitCode.DONE


def _usual_target(name: str) -> Path:
    """A file of this machine's folder, called after the dataset."""
    called = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(name).expanduser().absolute().name if "/" in name else name)
    return pippa_home() / "data" / f"{called.strip('._') or 'dataset'}.html"


@contextmanager
def _folder(name: str) -> Generator[tuple[Path, str]]:
    """The dataset ``name`` as it can be read, and what it is called: a folder of that name, or else of the store.

    Raises ``UsageError`` where there is neither.
    """
    from trainer.importers import downloads_folder
    from trainer.importers.complete_dataset import completed

    folder = Path(name).expanduser()
    called = Folder(name).existing().name if folder.exists() else name
    folder = folder.resolve() if folder.is_dir() else _stored(name)

    def log(line: str) -> None:
        notes().print(f"[dim]{escape(line)}[/]", soft_wrap=True)

    with completed(folder, called, downloads_folder(pippa_home()), log) as ready:
        yield ready, called


def _stored(name: str) -> Path:
    """The files of a dataset of the store, in this machine's cache. Raises ``UsageError`` for an unknown name."""
    from trainer import importers
    from trainer.store.local_cache import cached

    store = None if nothing_stored() else opened_store()
    ref = importers.find(store, "dataset", name) if store is not None else None
    if store is None or ref is None:
        raise UsageError(
            f"There is no folder {name}, and no dataset {name} in the store.",
            "`pippa data list` lists those of the store; `pippa data add NAME` imports one.",
        )
    with spinner(f"Fetching {name} from the store"):
        return cached(store, ref, pippa_home(), lambda _: None)
