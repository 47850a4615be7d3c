"""The flags of a pydantic model: one per field, with its docstring as help, read as texts and validated all at once."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from trainer.command_line import EachSwitch, Once, Parser, Switch, did_you_mean_flag, not_among
from trainer.errors import UsageError
from trainer.wrong_values import in_words

Model = TypeVar("Model", bound=BaseModel)


def flag(name: str, *, on: bool = True) -> str:
    """The flag of a field: ``tune_llm`` is ``--tune-llm``, switched off ``--no-tune-llm``."""
    return f"--{'' if on else 'no-'}{name.replace('_', '-')}"


def add_flags(
    parser: Parser,
    model: type[BaseModel],
    values: Mapping[str, Any],
    groups: Mapping[str, Sequence[str]] | None = None,
    *,
    several: bool = False,
) -> None:
    """Let ``parser`` take every field of ``model``, in ``groups``; help shows those of ``values`` in brackets.

    With ``several`` each may be given several values and the namespace has a list of them: after one flag, of what is
    on or off by both its flags, of what is a list already by the flag once for each.
    """
    groups = dict(groups or {})
    if not groups:
        groups["options"] = tuple(model.model_fields)
    for title, names in groups.items():
        group = parser.add_argument_group(title)
        for name in names:
            _add(group, name, model.model_fields[name], values.get(name), several=several)


def add_hidden_flags(parser: Parser, model: type[BaseModel], names: Sequence[str], several: bool) -> None:
    """Let ``parser`` take the fields ``names`` of ``model``, which help does not show; what it has already stays."""
    for name in names:
        if flag(name) not in parser.flags():
            _add(parser, name, model.model_fields[name], None, several=several, hidden=True)


def given_values(fields: Container[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Those of ``fields`` that a command line sets, as texts, lists of texts and truth values."""
    return {name: value for name, value in vars(arguments).items() if name in fields}


def parse(model: type[Model], argv: Sequence[str], prog: str) -> Model:
    """``model`` with the values that the flags of ``argv`` give it; its docstring is the description of ``--help``."""
    parser = Parser(prog, collects=True, usage=f"{prog} [--flag …]", description=inspect.getdoc(model))
    values = {name: field.default for name, field in model.model_fields.items() if not field.is_required()}
    add_flags(parser, model, values)
    arguments = parser.parse_args(argv)
    return validated(model, given_values(model.model_fields, arguments), prog, arguments.problems)


def validated(model: type[Model], values: Mapping[str, Any], prog: str, problems: Sequence[str] = ()) -> Model:
    """``model`` with ``values``. Raises one ``UsageError`` with ``problems``, those known before, and all it finds."""
    found = [*problems, *field_problems(model, values)]
    if found:
        raise refusal(found, prog)
    return model.model_validate(values)


def refusal(problems: Sequence[str], prog: str) -> UsageError:
    """One error that says all ``problems``."""
    return UsageError("\n".join(problems), f"`{prog} --help` explains every flag.")


def field_problems(model: type[BaseModel], values: Mapping[str, Any]) -> list[str]:
    """What is wrong with ``values``, a line for each flag."""
    try:
        model.model_validate(values)
    except ValidationError as error:
        # One line for a field, though it may be of several kinds and then be wrong as each of them.
        first = {str(each["loc"][0]): each for each in reversed(error.errors()) if each["loc"]}
        return [f"{flag(name)}: {_problem(model, name, each)}" for name, each in reversed(first.items())]
    return []


def _add(
    group: argparse._ActionsContainer,
    name: str,
    field: FieldInfo,
    value: object,
    *,
    several: bool,
    hidden: bool = False,
) -> None:
    kind = _without_none(field.annotation)
    shown = "" if value is None or value in ((), [], "") else f" [{_shown(value)}]"
    text = f"{field.description or ''}{shown}".replace("%", "%%")
    options: dict[str, Any] = {"help": argparse.SUPPRESS if hidden else text}
    if kind is bool:
        options["action"] = EachSwitch if several else Switch
    elif get_origin(kind) in (list, tuple, dict):
        metavar = "NAME" if get_origin(kind) is not dict else "NAME X"
        options |= {"action": "append" if several else Once, "nargs": "+", "metavar": metavar}
    else:
        options["metavar"] = _metavar(_plain(kind))
        if several:
            options |= {"action": Once, "nargs": "+"}
    group.add_argument(flag(name), dest=name, default=argparse.SUPPRESS, **options)


def _without_none(kind: Any) -> Any:
    if get_origin(kind) in (Union, UnionType):
        kinds = [each for each in get_args(kind) if each is not NoneType]
        return kinds[0] if len(kinds) == 1 else str
    return kind


def _plain(kind: Any) -> Any:
    """A type without its bounds."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _metavar(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"{{{','.join(map(str, get_args(kind)))}}}"
    return {int: "N", float: "X", Path: "PATH"}.get(kind, "TEXT")


def _problem(model: type[BaseModel], name: str, error: ErrorDetails) -> str:
    given = error["input"]
    match error["type"]:
        case "missing":
            return "is required."
        case "extra_forbidden":
            return f"there is no such flag. {did_you_mean_flag(flag(name), map(flag, model.model_fields))}"
        case "literal_error" if len(error["loc"]) > 1:  # a key of several
            return not_among(str(given), error["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", "))
        case "literal_error":
            return not_among(str(given), get_args(_without_none(model.model_fields[name].annotation)))
        case _:
            text = in_words(error)
            return f"{text} (got {given})" if error["type"] == "value_error" else f"{text}."


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
