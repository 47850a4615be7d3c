"""A grid of trainings: every combination of the values that the flags of one command line have."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from trainer.config.argv import Resolved, given_arguments, resolve_values
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.flags import flag, refusal
from trainer.config.training_flags import name_problems, named_preset
from trainer.errors import UsageError

_NAME_LENGTH = 60


class Point(NamedTuple):
    """One training of a grid."""

    name: str
    """The beginning of its run id: the grid's name, and the values that are its own."""
    label: str
    """The flags with the values that differ within the grid."""
    argv: list[str]
    """All flags, as ``pippa train`` takes them."""
    resolved: Resolved

    @property
    def config(self) -> FinetuneConfig:
        """What it trains."""
        return self.resolved[1]


@dataclass(frozen=True)
class Grid:
    """The trainings that a command line asks for."""

    name: str
    """``--name``, by default ``<preset>-sweep``; in W&B and the object store the group of its runs."""
    preset: str
    preset_argv: list[str]
    """What names the preset on the command line of one of its trainings."""
    points: list[Point]


def asked_grid(arguments: argparse.Namespace, prog: str) -> Grid:
    """The grid of a command line whose flags take several values. Raises one ``UsageError`` with all that is wrong."""
    preset = named_preset(arguments, prog)
    name = arguments.name or f"{preset.name}-sweep"
    options = given_arguments(arguments)
    problems = [*arguments.problems, *name_problems(name)]
    points, resolved_of = [], {}
    for chosen in product(*options.values()):
        values = dict(zip(options, chosen, strict=True))
        own = {field: value for field, value in values.items() if len(options[field]) > 1}
        try:
            resolved = resolve_values(preset, values, prog)
        except UsageError as error:
            problems += error.message.splitlines()
            continue
        label = " ".join(_argv(own)) or "as given"
        key = resolved[1].model_dump_json()
        if key in resolved_of:
            problems.append(f"{label} and {resolved_of[key]} are the same training: leave one of them out.")
            continue
        resolved_of[key] = label
        points.append(Point(_named(name, own), label, _argv(values), resolved))
    if len(points) > 1 and (folder := next((p.config.output_dir for p in points if _absolute(p)), None)):
        problems.append(
            f"--output-dir {folder}: all trainings of a sweep would write there. Leave it out, or use a relative one, "
            "which lies in each run's own folder."
        )
    if problems:
        raise refusal(list(dict.fromkeys(problems)), prog)
    file = arguments.preset_file
    names = ["--preset", str(file)] if file else [arguments.preset] if arguments.preset else []
    return Grid(name, preset.name, names, points)


def _absolute(point: Point) -> bool:
    """Whether its output folder is chosen, and not one of the run's own."""
    _, config, provenance = point.resolved
    return provenance["output_dir"] == "flag" and Path(config.output_dir).expanduser().is_absolute()


def _argv(values: Mapping[str, Any]) -> list[str]:
    argv: list[str] = []
    for name, value in values.items():
        if isinstance(value, bool):
            argv.append(flag(name, on=value))
        else:
            argv += [flag(name), *(value if isinstance(value, list) else [value])]
    return argv


def _named(name: str, own: Mapping[str, Any]) -> str:
    """``name`` with the values of a point, as far as they fit; ``1e-4`` stays as it was typed."""
    words = "-".join(_argv(own)).lower()
    return f"{name}-{re.sub(r'[^a-z0-9]+', '-', words).strip('-')}"[:_NAME_LENGTH].strip("-")
