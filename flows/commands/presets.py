"""``pippa presets``."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence

from rich.markup import escape

from flows.commands import Add, add_json, columns, console, print_json
from flows.views.presets_commands import full_command, page
from flows.views.presets_table import as_document, comparison_table, overview_table
from trainer.config.flags import flag
from trainer.config.presets import all_presets
from trainer.errors import ExitCode


def commands(add: Add, words: Sequence[str]) -> None:  # noqa: ARG001
    """The commands of ``pippa presets``."""
    parser = add("presets list", show_all)
    add_json(parser)
    parser = add("presets show", show, description="Show every value that a preset trains with, and why.")
    known = list(all_presets())
    parser.add_argument("preset", metavar="PRESET", choices=known)
    add_json(parser)
    parser = add("presets compare", compare, description="Show what differs between presets, and why.")
    parser.add_argument("presets", nargs="*", metavar="PRESET", choices=known, help="by default all of them")
    parser.add_argument("--markdown", action="store_true", help="a table for a page instead of the terminal")
    add_json(parser)


def show_all(arguments: Namespace) -> int:
    """``pippa presets list``"""
    presets = list(all_presets().values())
    if arguments.json:
        print_json([as_document(preset) for preset in presets])
        return ExitCode.DONE
    screen = console()
    screen.print(overview_table(presets))
    screen.print("\nDifferences and their reasons: [bold]pippa presets compare blog overfit-demo[/]")
    return ExitCode.DONE


def show(arguments: Namespace) -> int:
    """``pippa presets show PRESET``"""
    preset = all_presets()[arguments.preset]
    if arguments.json:
        print_json(as_document(preset))
        return ExitCode.DONE
    screen = console()
    screen.print(f"[bold]{escape(preset.name)}[/]  {escape(preset.summary)}\n")
    table = columns("flag", "value", "why")
    for name in preset.kind.fields():
        reason = preset.reason(name) or ("" if name in preset.arguments else "[dim]default[/]")
        value = getattr(preset.config, name)
        table.add_row(flag(name), escape(" ".join(value) if isinstance(value, list) else str(value)), reason)
    screen.print(table)
    return ExitCode.DONE


def compare(arguments: Namespace) -> int:
    """``pippa presets compare A B …``"""
    known = all_presets()
    presets = [known[name] for name in arguments.presets or known]
    if arguments.json:
        print_json([as_document(preset) for preset in presets])
    elif arguments.markdown:
        sys.stdout.write(page(presets) + "\n")
    else:
        screen = console()
        screen.print(comparison_table(presets))
        for preset in presets:
            screen.print(f"\n[bold]{escape(preset.name)}[/]: pippa train {escape(preset.name)}, or with Isaac-GR00T:")
            screen.file.write(full_command(preset) + "\n")
    return ExitCode.DONE
