"""What the form of a deployment asks for: the arguments of every generation, none of them required."""

from __future__ import annotations

from copy import deepcopy
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.fields import FieldInfo
from pydantic.json_schema import SkipJsonSchema

from trainer.config.generations import ALL_FIELDS, CONFIGS
from trainer.config.presets import DEFAULT, Preset, all_presets

if TYPE_CHECKING:
    PresetName: TypeAlias = str
else:
    PresetName = Literal[(*all_presets(), DEFAULT.name)]

AS_THE_PRESET = "preset"
Choice = Literal["preset", "yes", "no"]
"""What a form asks for what is on or off: Prefect draws a switch as off where the preset, left alone, has it on."""

_SWITCHES = {name for name, field in ALL_FIELDS.items() if field.annotation is bool}


def _plain(schema: dict[str, Any]) -> None:
    """A field that is left empty is not there: an explicit null would be one more choice in every field of the form."""
    schema.pop("default", None)


def _optional(name: str) -> Any:
    field = ALL_FIELDS[name]
    if name in _SWITCHES:
        return Choice, Field(default=AS_THE_PRESET, title=name, description=field.description)
    kinds = [config.fields()[name] for config in CONFIGS.values() if name in config.fields()]
    kind = _bounded(field)
    if all(get_origin(each.annotation) is Literal for each in kinds):
        choices = tuple(dict.fromkeys(choice for each in kinds for choice in get_args(each.annotation)))
        kind = Annotated[str, Field(json_schema_extra={"enum": list(choices)})]
    return kind | SkipJsonSchema[None], Field(
        default=None, title=name, description=field.description, json_schema_extra=_plain
    )


def _bounded(field: FieldInfo) -> Any:
    """The type of a field with its bounds."""
    kind: Any = field.annotation
    if NoneType in get_args(kind):  # left empty
        (kind,) = [each for each in get_args(kind) if each is not NoneType]
    for constraint in field.metadata:
        kind = Annotated[kind, constraint]
    return kind


if TYPE_CHECKING:

    class Overrides(BaseModel):
        """Arguments that differ from the preset's; what is left empty stays as the preset has it."""
else:
    Overrides = create_model(
        "Overrides",
        __config__=ConfigDict(extra="forbid", frozen=True),
        __doc__="Arguments that differ from the preset's; what is left empty stays as the preset has it.",
        **{name: _optional(name) for name in ALL_FIELDS},
    )


def given(overrides: Overrides | dict[str, Any] | None) -> dict[str, Any]:
    """The arguments that ``overrides`` really sets, as ``trainer.config.argv.resolve_values`` takes them."""
    values = overrides.model_dump(exclude_unset=True) if isinstance(overrides, BaseModel) else overrides or {}
    return {
        name: {"yes": True, "no": False}.get(value, value) if name in _SWITCHES else value
        for name, value in values.items()
        if value is not None and not (name in _SWITCHES and value == AS_THE_PRESET)
    }


def as_form(overrides: dict[str, Any]) -> dict[str, Any]:
    """``overrides`` as a form has them; ``given`` takes them back."""
    return {
        name: ("yes" if value else "no") if name in _SWITCHES and isinstance(value, bool) else value
        for name, value in overrides.items()
    }


def brought_up_to_date(parameters: dict[str, Any]) -> dict[str, Any]:
    """Stored parameters of a deployment as the form has them now.

    An earlier pippa had true and false for what is on or off, which the server rejects since these are choices.
    """
    overrides = parameters.get("overrides")
    return {**parameters, "overrides": as_form(overrides)} if isinstance(overrides, dict) else parameters


def described(schema: dict[str, Any], preset: Preset) -> dict[str, Any]:
    """The parameter schema of the flow ``train``, its help saying what ``preset`` has for each argument.

    Arguments of another generation than the preset's are left out.
    """
    schema = deepcopy(schema)
    properties = schema["definitions"][Overrides.__name__]["properties"]
    for name, prop in list(properties.items()):
        if preset.name != DEFAULT.name and name not in preset.kind.fields():
            del properties[name]
        if name not in properties or preset.known.get(name) is None:
            continue
        value = preset.known[name]
        shown = ("yes" if value else "no") if isinstance(value, bool) else value
        shown = " ".join(map(str, shown)) if isinstance(shown, list) else shown
        prop["description"] = f"{prop['description']} In {preset.name}: {'none' if shown == '' else shown}."
    return schema
