"""``pippa models``: base models in the object store."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape

from flows.cli import Parser
from flows.commands import ByteBar, console, notes, opened_store
from flows.commands.data import show_snapshots
from trainer.config.settings import pippa_home
from trainer.errors import ExitCode


def show_all(argv: Sequence[str]) -> int:
    """``pippa models list``"""
    Parser("pippa models list", description="List the base models in the object store.").parse_args(argv)
    return show_snapshots("model", "No base models yet. `pippa models add nvidia/GR00T-N1.5-3B` brings NVIDIA's.")


def add(argv: Sequence[str]) -> int:
    """``pippa models add NAME``"""
    parser = Parser("pippa models add", description="Import a base model into the object store, once for all machines.")
    parser.add_argument(
        "source",
        metavar="NAME",
        help="OWNER/NAME[@REVISION] of the Hugging Face hub, git+https://…@REF#FOLDER, s3://…, ./FOLDER, tiny",
    )
    parser.add_argument("--name", help="its name in the store (default: the folder's or repository's)")
    parser.add_argument("--refresh", action="store_true", help="ask the source for a newer one, if the store has one")
    arguments = parser.parse_args(argv)
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
