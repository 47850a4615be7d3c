"""``pippa completion``: shell completions, made from the parser itself."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence

from flows.commands import Add
from trainer.errors import ExitCode

SHELLS = ("bash", "zsh", "tcsh")


def commands(add: Add, words: Sequence[str]) -> None:  # noqa: ARG001
    """The command ``pippa completion``."""
    parser = add(
        "completion",
        completion,
        description="Print completions of commands, flags and presets for a shell. In ~/.bashrc:\n\n"
        '  eval "$(pippa completion bash)"',
    )
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))


def completion(arguments: Namespace) -> int:
    """``pippa completion bash``"""
    import shtab

    from flows.cli import build_parser

    sys.stdout.write(shtab.complete(build_parser(), arguments.shell) + "\n")
    return ExitCode.DONE
