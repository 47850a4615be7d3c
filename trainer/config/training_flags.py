"""A training on a command line, for `pippa train` and `trainer run`: a preset, a name, and any argument as a flag."""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from trainer.command_line import Parser
from trainer.config.argv import Resolved, add_config_flags, base_model_in, given_arguments, resolve_values
from trainer.config.flags import refusal
from trainer.config.generations import config_of
from trainer.config.preset_files import read_preset
from trainer.config.presets import DEFAULT, PRESETS, Preset, all_presets
from trainer.config.run_spec import RUN_NAME
from trainer.errors import UsageError

DESCRIPTION = (
    "Every argument of the preset can be changed by a flag; those of Isaac-GR00T's own script have the same form. "
    "Without a preset, upstream's defaults are trained: --dataset-path names the data, and the base model decides "
    "whose flags there are."
)


class Asked(NamedTuple):
    """What somebody wants trained."""

    resolved: Resolved
    name: str
    """The beginning of the run id."""


def add_training_flags(
    parser: Parser, words: Sequence[str], examples: Sequence[str], *, several: bool = False
) -> argparse._ArgumentGroup:
    """Let ``parser``, which collects problems, take a training; returns the group for flags about the run itself.

    ``words`` are those typed after the command: where the first is a preset, help shows its values. With ``several``
    each argument takes several values (``trainer.config.grid``).
    """
    known = _known()
    named = words[0] if words and words[0] in known else DEFAULT.name
    parser.usage = f"{parser.prog} {'[PRESET]' if named == DEFAULT.name else named} [--flag …]"
    lines = "".join(f"\n  {example}" for example in examples)
    parser.epilog = f"Values in brackets are those of the preset {named}.\n\nexamples:{lines}"
    parser.add_argument("preset", metavar="PRESET", nargs="?", choices=list(known), help=f"one of {_listed(known)}")
    group = parser.add_argument_group("this run")
    group.add_argument(
        "--name", help="name of the run: the beginning of its id, its name in W&B, and NAME/latest in the registry"
    )
    group.add_argument(
        "--preset", dest="preset_file", metavar="FILE", type=Path, help="a preset of your own, in a TOML file"
    )
    shown, config = known[named].known, known[named].kind
    if named == DEFAULT.name and (base_model := base_model_in(words)):
        with contextlib.suppress(UsageError):  # reported when the training is resolved
            config = config_of(base_model)
            shown = {name: field.default for name, field in config.fields().items() if not field.is_required()}
    add_config_flags(parser, shown, config, several=several)
    return group


def asked(arguments: argparse.Namespace, prog: str) -> Asked:
    """The training that a command line asks for. Raises one ``UsageError`` with all that is wrong."""
    preset = named_preset(arguments, prog)
    problems = [*arguments.problems, *name_problems(arguments.name)]
    values = given_arguments(arguments)
    prog = prog if preset is DEFAULT else f"{prog} {preset.name}"
    return Asked(resolve_values(preset, values, prog, problems=problems), arguments.name or preset.name)


def _known() -> Mapping[str, Preset]:
    return {**all_presets(), DEFAULT.name: DEFAULT}


def _listed(known: Mapping[str, Preset]) -> str:
    return ", ".join(name for name in known if name != DEFAULT.name)


def named_preset(arguments: argparse.Namespace, prog: str) -> Preset:
    """The preset that a command line names. Raises ``UsageError``, also where it names neither one nor a dataset."""
    if arguments.preset and arguments.preset_file:
        raise UsageError(
            f"Two presets: {arguments.preset}, and --preset {arguments.preset_file}.", "Leave one of them out."
        )
    if arguments.preset_file:
        return read_preset(arguments.preset_file.expanduser(), PRESETS)
    known = _known()
    if arguments.preset in known:
        return known[arguments.preset]
    if arguments.problems:
        raise refusal(arguments.problems, prog)
    if "dataset_path" not in arguments:
        raise UsageError(
            f"Name a preset, or a dataset: {prog} PRESET, or {prog} --dataset-path ./my-robot.",
            f"The presets are {_listed(known)}.",
        )
    return DEFAULT


def name_problems(name: str | None) -> list[str]:
    """What is wrong with a ``--name``."""
    if name is None or (RUN_NAME.fullmatch(name) and name not in PRESETS):
        return []
    if name in PRESETS:
        return [f"--name {name}: a preset has this name, and its aliases. Choose another one."]
    proposed = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60]
    guess = f", such as {proposed}" if proposed else ""
    return [f"--name {name!r}: use up to 60 lower-case letters, digits and dashes{guess}."]
