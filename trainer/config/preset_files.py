"""Presets of the user's own, in TOML: ``pippa.toml`` in the current folder, or a file for ``--preset``.

```toml
[presets.kitchen]
summary = "The kitchen arm, gently."
from = "blog"                      # optional: the preset whose other values it takes

[presets.kitchen.arguments]
dataset_path = ["team/kitchen"]
learning_rate = { value = 5e-5, reason = "1e-4 forgot the grasp" }
```

A file for ``--preset`` may hold the one preset without its ``[presets.NAME]``; it is then named after the file.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from trainer.command_line import not_among
from trainer.config.flags import field_problems
from trainer.config.generations import config_of, other_flags
from trainer.config.preset import Goal, Preset, Value
from trainer.errors import UsageError

LARGEST = 256 * 1024
"""Bytes."""
SETTING = "PIPPA_PRESETS"
_DEFAULT_FILE = "pippa.toml"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,59}")
_KEYS = ("summary", "from", "environment", "goal", "wandb_tags", "arguments")
_SHOWN_IN = "docs/own-presets.md shows one."


def presets_file(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The file with the user's presets: ``PIPPA_PRESETS``, else ``pippa.toml`` here; None where there is none.

    Raises ``UsageError`` when the setting names no file.
    """
    if named := environ.get(SETTING):
        if not Path(named).expanduser().is_file():
            raise UsageError(f"{SETTING}: there is no file {named}.", "Name a TOML file with presets, or unset it.")
        return Path(named).expanduser().absolute()
    file = Path.cwd() / _DEFAULT_FILE
    return file if file.is_file() else None


def read_presets(file: Path, known: Mapping[str, Preset]) -> dict[str, Preset]:
    """The presets of ``file`` by name; ``known`` are those that they may start from.

    Raises one ``UsageError`` with all that is wrong, each problem with its key.
    """
    document = _document(file)
    if unknown := [key for key in document if key != "presets"]:
        raise UsageError(f"{file}: there is no key {unknown[0]}.", f"Presets are tables [presets.NAME]. {_SHOWN_IN}")
    tables = document.get("presets", {})
    if not isinstance(tables, dict):
        raise UsageError(f"{file}: presets is {tables!r}.", f"Presets are tables [presets.NAME]. {_SHOWN_IN}")
    problems: list[str] = []
    found: dict[str, Preset] = {}
    for name, table in tables.items():
        if name in known:
            problems.append(f"presets.{name}: a built-in preset has this name.")
        elif preset := _preset(name, table, {**known, **found}, file, problems, f"presets.{name}"):
            found[name] = preset
    _raise(file, problems)
    return found


def read_preset(file: Path, known: Mapping[str, Preset]) -> Preset:
    """The one preset of ``file``. Raises ``UsageError`` as ``read_presets``, and for a file with several."""
    if not file.is_file():
        raise UsageError(f"--preset: there is no file {file}.", f"Name a TOML file with one preset. {_SHOWN_IN}")
    document = _document(file)
    if "presets" in document:
        found = read_presets(file, known)
        if len(found) != 1:
            raise UsageError(
                f"--preset: {file} has {len(found)} presets: {', '.join(found)}.",
                f"Set {SETTING}={file} and name one: `pippa train PRESET`.",
            )
        return next(iter(found.values()))
    problems: list[str] = []
    preset = _preset(str(document.pop("name", file.stem)), document, known, file, problems, "")
    _raise(file, problems)
    assert preset is not None  # noqa: S101 - else there were problems
    return preset


def _document(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            content = stream.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise UsageError(f"{file}: larger than {LARGEST // 1024} KiB.", _SHOWN_IN)
        return tomllib.loads(content.decode())
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{file}: can't be read as TOML ({error}).", _SHOWN_IN) from None


def _preset(
    name: str, table: Any, known: Mapping[str, Preset], file: Path, problems: list[str], where: str
) -> Preset | None:
    """The preset that ``table`` declares; None after adding to ``problems``."""
    before, prefix = len(problems), f"{where}." if where else ""
    if not _NAME.fullmatch(name) or name == "default":
        problems.append(f"{where or 'name'}: {name!r} can't be a preset's name: use lower-case letters, digits, '-'.")
    if not isinstance(table, dict) or not isinstance(table.get("arguments"), dict):
        problems.append(f"{prefix}arguments is missing: a table of arguments and their values.")
        return None
    problems += [f"{prefix}{key}: there is no such key. {_nearest(key, _KEYS)}" for key in table if key not in _KEYS]
    parent = table.get("from")
    if parent is not None and parent not in known:
        problems.append(f"{prefix}from: there is no preset {parent!r}. {_nearest(str(parent), known)}")
    summary, environment, tags = table.get("summary", ""), table.get("environment"), table.get("wandb_tags")
    if environment not in (None, "uv", "conda"):
        problems.append(f"{prefix}environment: {environment!r} is not one of uv, conda.")
    if (goal := table.get("goal")) not in (None, *get_args(Goal)):
        problems.append(f"{prefix}goal: {not_among(str(goal), get_args(Goal))}")
    if tags is not None and not (isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)):
        problems.append(f"{prefix}wandb_tags: a list of texts.")
    own = {key: _value(value, file) for key, value in table["arguments"].items()}
    start = known.get(str(parent))
    arguments = {**(start.arguments if start else {}), **own}
    values = {"dataset_path": ["…"], **{key: each.value for key, each in arguments.items()}}
    try:
        config = config_of(values.get("base_model_path"))
    except UsageError as error:
        problems.append(f"{prefix}arguments.base_model_path: {error.message}")
        return None
    others = other_flags(config, values)
    values = {key: value for key, value in values.items() if f"--{key.replace('_', '-')} is" not in "".join(others)}
    if config.typed_otherwise:
        values, unreadable = config.resolved(values)
        others += unreadable
    problems += [f"{prefix}arguments: {problem}" for problem in [*field_problems(config, values), *others]]
    if len(problems) > before:
        return None
    return Preset(
        name=name,
        summary=str(summary) or f"{name}, of {file.name}.",
        environment=environment or (start.environment if start else "uv"),
        arguments=arguments,
        wandb_tags=tuple(tags) if tags is not None else (name,),
        goal=goal or (start.goal if start else "generalise"),
    )


def _value(given: Any, file: Path) -> Value:
    """A value, or a value with its reason; a data config's file is relative to ``file``."""
    value, reason = given, ""
    if isinstance(given, dict) and "value" in given:
        value, reason = given["value"], given.get("reason", "")
    if isinstance(value, str) and value.endswith((".toml", ".json")) and (file.parent / value).is_file():
        value = str(file.parent / value)
    return Value(value, str(reason) or f"set in {file.name}")


def _raise(file: Path, problems: list[str]) -> None:
    if problems:
        raise UsageError("\n".join(f"{file}: {problem}" for problem in problems), _SHOWN_IN)


def _nearest(word: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(word, names, n=1)
    return f"Did you mean {near[0]}?" if near else f"There are {', '.join(names)}."
