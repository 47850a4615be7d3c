"""``pippa checkpoints export``: a checkpoint as a Hugging Face folder, and onto the hub."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.markup import escape

from flows.commands import Add, ByteBar, console, existing_store, spinner
from flows.commands.checkpoints import NAME_HELP
from trainer.config.settings import pippa_home
from trainer.errors import ExitCode, UsageError


def commands(add: Add, words: Sequence[str]) -> None:  # noqa: ARG001
    """The command ``pippa checkpoints export``."""
    parser = add(
        "checkpoints export",
        export,
        description="Write a checkpoint as a plain Hugging Face folder with a model card: how it was trained, figures, "
        "plots, lineage, licence. It loads here, in Isaac-GR00T and from the hub.",
    )
    parser.add_argument("name", metavar="NAME", help=NAME_HELP)
    parser.add_argument(
        "folder", metavar="FOLDER", type=Path, nargs="?", help="where to; must not exist yet, or be empty"
    )
    parser.add_argument("--adapter", action="store_true", help="the LoRA adapters alone, as peft reads them")
    parser.add_argument(
        "--push", metavar="OWNER/NAME", help="upload it to this repository of the Hugging Face hub, with HF_TOKEN"
    )
    parser.add_argument("--public", action="store_true", help="with --push: let everybody see it; default: private")


def export(arguments: Namespace) -> int:
    """``pippa checkpoints export NAME [FOLDER] [--push OWNER/NAME]``"""
    if arguments.folder is None and arguments.push is None:
        raise UsageError("Where to?", "Name a folder, a repository of the hub with --push OWNER/NAME, or both.")
    if arguments.public and arguments.push is None:
        raise UsageError("--public is of what is pushed.", "Add --push OWNER/NAME, or leave it out.")
    store = existing_store("checkpoint")
    from trainer.export import folder as exported
    from trainer.export import hub
    from trainer.store import registry

    if arguments.folder is not None:
        exported.require_free(arguments.folder.expanduser())
    entry = registry.resolve(store, arguments.name)
    repository = hub.opened(arguments.push, public=arguments.public) if arguments.push is not None else None
    screen = console()
    with _target(arguments.folder) as folder:
        with ByteBar(f"exporting {entry.name}") as progress:
            exported.export(store, entry, folder, adapter=arguments.adapter, progress=progress)
        if arguments.folder is not None:
            screen.print(f"[green]✓[/] {escape(entry.name)} is in {escape(str(folder.absolute()))}", soft_wrap=True)
        if repository is not None:
            with spinner(f"Uploading to {repository.id}"):
                page = hub.push(repository, folder, f"{entry.name}, exported by pippa")
            screen.print(f"[green]✓[/] {escape(entry.name)} is at {escape(page)}", soft_wrap=True)
    return ExitCode.DONE


@contextmanager
def _target(folder: Path | None) -> Generator[Path]:
    """``folder``, or one that is removed after the push."""
    if folder is not None:
        yield folder.expanduser()
        return
    place = pippa_home() / "tmp"
    place.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=place, prefix="export-") as temporary:
        yield Path(temporary) / "folder"
