"""What pydantic finds wrong with a document or a flag, in the words of those who wrote it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from reprlib import Repr
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

_SHORT = Repr()
"""Of what may be long, or deep."""
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlevel = 2
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a number",
    "string": "a text",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "dict": "an object with keys and values",
    "model": "an object with keys and values",
    "dataclass": "an object with keys and values",
    "mapping": "an object with keys and values",
    "path": "a path",
    "datetime": "a time",
}
_NO_SUCH_KIND = ("type", "parsing", "parsing_size", "from_float", "number", "attributes_type", "exact_type")
_LIMITS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
    "too_short": ("of at least", "min_length"),
    "too_long": ("of at most", "max_length"),
    "string_too_short": ("of at least", "min_length"),
    "string_too_long": ("of at most", "max_length"),
    "multiple_of": ("a multiple of", "multiple_of"),
}
_UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")


def first_problem(error: ValidationError, model: type | None = None) -> str:
    """The first thing pydantic found, as ``key: what is wrong``; ``model``, what was asked for, knows the keys."""
    found = error.errors(include_url=False)
    # What is misspelled is missing too.
    details = next((each for each in found if each["type"] in _UNKNOWN_KEY), found[0])
    where = ".".join(str(part) for part in details["loc"])
    what = in_words(details, keys_at(model, details["loc"][:-1]) if model else ())
    return f"{where}: {what}" if where else what


def in_words(details: ErrorDetails, known: Sequence[str] = ()) -> str:
    """One problem without its place and full stop; ``known`` are the keys there are where one was not known."""
    kind, context = details["type"], details.get("ctx", {})
    given = _SHORT.repr(details["input"])
    if kind == "missing":
        there = details["input"] if isinstance(details["input"], Mapping) else ()
        near = difflib.get_close_matches(str(details["loc"][-1]), [str(each) for each in there], n=1)
        return f"missing (there is {near[0]})" if near else "missing"
    if kind in _UNKNOWN_KEY:
        return f"there is no such key; {nearest(details['loc'][-1], known)}" if known else "there is no such key"
    if str(details["input"]).lower() == "nan" and kind in _LIMITS:
        return "nan is not a number"
    if kind in _LIMITS:
        words, name = _LIMITS[kind]
        least = context.get(name, context.get("min_length", context.get("max_length")))
        if "length" in name:
            return f"{given} must be {words} {least} {'characters' if kind.startswith('string') else 'items'}"
        return f"{details['input']!s:.80} must be {words} {least:g}"  # a flag's is a text
    if kind in ("literal_error", "enum"):
        choices = re.findall("'(.*?)'", str(context.get("expected", "")))
        return f"{given} is not one of {', '.join(choices)}{_guess(details['input'], choices)}"
    if kind == "value_error":
        return details["msg"].removeprefix("Value error, ")
    if kind == "string_pattern_mismatch":
        return f"{given} has another form than {context['pattern']}"
    what, _, how = kind.partition("_")
    if what in _KINDS and how in _NO_SUCH_KIND:
        return f"{given} is not {_KINDS[what]}"
    return f"{details['msg'][:1].lower()}{details['msg'][1:]} ({given})"


def nearest(given: object, known: Sequence[str]) -> str:
    """Which of ``known`` may have been meant."""
    near = difflib.get_close_matches(str(given), known, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"


def keys_at(model: Any, place: Sequence[int | str]) -> list[str]:
    """The keys of what stands at ``place`` in a document of ``model``; empty where it has any keys."""
    for part in place:
        model = _inner(model, part)
    return list(_fields(_plain(model)))


def _inner(model: Any, part: int | str) -> Any:
    model = _plain(model)
    if known := _fields(model):
        return known.get(str(part))
    kinds = get_args(model)
    return None if not kinds else kinds[-1] if get_origin(model) is dict else kinds[0]


def _fields(model: Any) -> Mapping[str, Any]:
    if isinstance(model, type) and issubclass(model, BaseModel):
        return {field.alias or name: field.annotation for name, field in model.model_fields.items()}
    if isinstance(model, type) and is_dataclass(model):
        hints = get_type_hints(model)
        return {field.name: hints[field.name] for field in fields(model)}
    return {}


def _plain(kind: Any) -> Any:
    """A type without its bounds, and without None."""
    while kind is not None and not isinstance(kind, type) and get_origin(kind) not in (list, tuple, dict):
        inner = [each for each in get_args(kind) if each is not type(None)]
        if not inner or (get_origin(kind) is not Annotated and len(inner) > 1):
            return None
        kind = inner[0]
    return kind


def _guess(given: object, choices: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(given), choices, n=1)
    return f"; did you mean {near[0]}?" if near else ""
