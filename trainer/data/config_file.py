"""Data configs as text: read from TOML or JSON that anybody may have written, and written back."""

from __future__ import annotations

import difflib
import json
import re
import stat
import tomllib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from reprlib import Repr
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from trainer.data.data_config import DataConfig, Feature
from trainer.errors import UsageError
from trainer.wrong_values import in_words

SUFFIXES = (".toml", ".json")
LARGEST = 64 * 1024
"""Bytes; a large one has five thousand. It also bounds how deep one can be nested."""

_DATA_CONFIG = TypeAdapter(DataConfig)
_DOTTED = re.compile(r"""(?:[\w"'-]{1,80}[ \t]{0,9}\.[ \t]{0,9}){9}""")
"""A key of ten parts. tomllib takes half a minute for one of thirty thousand."""
_SHOWN = 5
"""Problems listed at once."""
_SHORT = Repr()
"""Of what may be long, or deep."""
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlevel = 2


def read_file(path: Path) -> DataConfig:
    """The data config in a ``.toml`` or ``.json`` file; its name is the file's where it names none itself.

    Raises ``UsageError`` that names file and key.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its other end
            raise UsageError(f"{path}: not a regular file.", "Name the file that declares the data config.")
        with path.open("rb") as stream:
            content = stream.read(LARGEST + 1)
        text = content.decode()
    except FileNotFoundError:
        raise UsageError(f"There is no file {path}.", "Name a TOML or JSON file that declares a data config.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: can't be read ({error}).", "A data config is UTF-8 text.") from error
    return from_text(text, str(path), toml=path.suffix.lower() != ".json", name=path.stem)


def from_text(text: str, where: str, *, toml: bool = False, name: str = "") -> DataConfig:
    """The data config that ``text`` declares in JSON, or in TOML. ``where`` is what errors call it, ``name`` its name
    where it gives none. Raises ``UsageError``.
    """
    kind = "TOML" if toml else "JSON"
    if len(text.encode()) > LARGEST:
        raise UsageError(f"{where}: larger than {LARGEST // 1024} KiB.", "A data config is a few lines long.")
    if toml and _DOTTED.search(text):
        raise UsageError(f"{where}: nested too deep.", "docs/data.md shows a data config.")
    try:
        document: Any = tomllib.loads(text) if toml else json.loads(text)
    except RecursionError:
        raise UsageError(f"{where}: nested too deep.", "docs/data.md shows a data config.") from None
    except ValueError as error:
        raise UsageError(f"{where}: not {kind} ({error}).", "Correct that line; docs/data.md shows one.") from None
    if not isinstance(document, dict):
        raise UsageError(f"{where}: not a data config but {_SHORT.repr(document)}.", "docs/data.md shows one.")
    return validated({"name": name, **document} if name else document, where)


def validated(values: dict[str, Any], where: str) -> DataConfig:
    """The data config with these values. Raises ``UsageError`` that says what is wrong with which key of ``where``."""
    try:
        return _DATA_CONFIG.validate_python(values)
    except ValidationError as error:
        raise explained(error, where) from None


def explained(error: ValidationError, where: str) -> UsageError:
    """What is wrong with the data config that ``where`` declares, and what may have been meant."""
    made = Feature if error.title == "Feature" else DataConfig
    problems = [problem for each in error.errors(include_url=False) if (problem := _problem(each, made))]
    lines = [f"{where}: {problem}" for problem in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        lines.append(f"… and {len(problems) - _SHOWN} more.")
    return UsageError("\n".join(lines), "docs/data.md describes every key of a data config.")


def to_document(config: DataConfig) -> dict[str, Any]:
    """``config`` as plain values, without what is left at its default."""
    return _DATA_CONFIG.dump_python(config, mode="json", exclude_defaults=True)


def to_json(config: DataConfig) -> str:
    """``config`` on one line of JSON."""
    return json.dumps(to_document(config), ensure_ascii=False, separators=(",", ":"))


def as_argument(config: str | DataConfig) -> str:
    """``config`` as one word of a command or a form: a name as it is, a declaration as JSON."""
    return config if isinstance(config, str) else to_json(config)


def to_toml(config: DataConfig) -> str:
    """``config`` as a file that people read and change."""
    lines = []
    for key, value in to_document(config).items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            rows = [", ".join(f"{name} = {_toml(each)}" for name, each in row.items()) for row in value]
            lines += [f"{key} = [", *(f"    {{ {row} }}," for row in rows), "]"]
        else:
            lines.append(f"{key} = {_toml(value)}")
    return "\n".join(lines) + "\n"


def _toml(value: str | int | bool | list[str]) -> str:
    # Without the characters that keys never have, JSON's strings, integers, truth values and lists are TOML's.
    return f"[{', '.join(map(_toml, value))}]" if isinstance(value, list) else json.dumps(value, ensure_ascii=False)


def _problem(error: ErrorDetails, made: type[DataConfig | Feature]) -> str:
    """What is wrong, and how it is right; empty for what only follows from another problem."""
    path = list(error["loc"])
    if path and isinstance(path[0], int):  # a module gave it by position
        path[0] = fields(made)[path[0]].name
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    given = error["input"]
    wrong = f"{place} is {_SHORT.repr(given)}"
    match error["type"]:
        case "unexpected_keyword_argument":
            known = [field.name for field in fields(Feature if len(path) > 1 else made)]
            return f"there is no key {place}. {_nearest(path[-1], known)}"
        case "missing":
            return f"{place} is missing."
        case "literal_error":
            choices = re.findall("'(.*?)'", error["ctx"]["expected"]) if "ctx" in error else []
            return f"{wrong}. {_nearest(given, choices)}"
        case "too_short" if given:
            return ""  # an item of it is wrong, and was left out
        case "tuple_type" | "too_short" if place == "video":
            return f'{wrong}. It is a list of cameras, such as ["front", "wrist"].'
        case "too_short" if place == "video_delta_indices":
            return f"{wrong}. Leave it out for the present frame alone."
        case "tuple_type" | "dataclass_type" | "too_short":
            return f'{wrong}. Write features: [{{ key = "single_arm", normalise = "min_max" }}].'
        case "value_error":
            message = error["msg"].removeprefix("Value error, ")
            return f"{place}: {message}." if place else f"{message}."
    return f"{place}: {in_words(error)}."


def _nearest(given: object, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(given), known, n=1)
    return f"Did you mean {near[0]}?" if near else f"There are {', '.join(known)}."
