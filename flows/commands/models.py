"""``pippa models``: base models in the object store."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from rich.markup import escape

from flows.commands import Add, ByteBar, add_json, console, notes, opened_store
from flows.commands.data import show_snapshots
from trainer.config.settings import pippa_home
from trainer.errors import ExitCode


def commands(add: Add, words: Sequence[str]) -> None:  # noqa: ARG001
    """The commands of ``pippa models``."""
    parser = add("models list", show_all, description="List the base models in the object store.")
    add_json(parser)
    parser = add(
        "models add", add_model, description="Import a base model into the object store, once for all machines."
    )
    parser.add_argument(
        "source",
        metavar="NAME",
        help="OWNER/NAME[@REVISION] of the Hugging Face hub, git+https://…@REF#FOLDER, s3://…, ./FOLDER, tiny",
    )
    parser.add_argument("--name", help="its name in the store (default: the folder's or repository's)")
    parser.add_argument("--refresh", action="store_true", help="ask the source for a newer version")


def show_all(arguments: Namespace) -> int:
    """``pippa models list``"""
    return show_snapshots(
        "model", "No base models yet. `pippa models add nvidia/GR00T-N1.5-3B` brings NVIDIA's.", as_json=arguments.json
    )


def add_model(arguments: Namespace) -> int:
    """``pippa models add NAME``"""
    from trainer import importers

    screen = notes()
    store = opened_store()
    with ByteBar(arguments.source) as report:
        ref = importers.base_model(
            store,
            arguments.source,
            importers.downloads_folder(pippa_home()),
            store_name=arguments.name,
            refresh=arguments.refresh,
            log=lambda line: screen.print(f"[dim]{escape(line)}[/]", soft_wrap=True),
            report=report,
        )
    console().print(
        f"[green]✓[/] {escape(str(ref))} is in the store\n"
        f"Train from it: pippa train PRESET --base-model-path {ref.name}"
    )
    return ExitCode.DONE
