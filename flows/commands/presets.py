"""``pippa presets``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from flows.cli import Parser
from flows.commands import console
from flows.views.presets_table import comparison_markdown, comparison_table, overview_table
from trainer.config.presets import PRESETS, get_preset
from trainer.errors import ExitCode


def overview(argv: Sequence[str]) -> int:
    """``pippa presets``"""
    Parser("pippa presets", description="List the presets.").parse_args(argv)
    screen = console()
    screen.print(overview_table(list(PRESETS.values())))
    screen.print("\nDifferences and their reasons: [bold]pippa presets compare blog overfit-demo[/]")
    return ExitCode.DONE


def compare(argv: Sequence[str]) -> int:
    """``pippa presets compare A B …``"""
    parser = Parser("pippa presets compare", description="What differs between presets, and why.")
    parser.add_argument("presets", nargs="*", type=get_preset, metavar="PRESET", help="by default all of them")
    parser.add_argument("--markdown", action="store_true", help="a table for a page instead of the terminal")
    arguments = parser.parse_args(argv)
    presets = arguments.presets or list(PRESETS.values())
    if arguments.markdown:
        sys.stdout.write(comparison_markdown(presets) + "\n")
    else:
        console().print(comparison_table(presets))
    return ExitCode.DONE
