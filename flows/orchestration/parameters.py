"""What the form of a deployment asks for: the fields of ``FinetuneConfig``, none of them required."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.json_schema import SkipJsonSchema

from trainer.config.finetune_config import FinetuneConfig
from trainer.config.presets import PRESETS, Preset

if TYPE_CHECKING:
    PresetName: TypeAlias = str
else:
    PresetName = Literal[tuple(PRESETS)]


def _plain(schema: dict[str, Any]) -> None:
    """A field that is left empty is not there: an explicit null would be one more choice in every field of the form."""
    schema.pop("default", None)


def _optional(name: str) -> Any:
    field = FinetuneConfig.model_fields[name]
    kind: Any = field.annotation
    for constraint in field.metadata:
        kind = Annotated[kind, constraint]
    return kind | SkipJsonSchema[None], Field(
        default=None, title=name, description=field.description, json_schema_extra=_plain
    )


if TYPE_CHECKING:

    class Overrides(BaseModel):
        """Arguments that differ from the preset's; what is left empty stays as the preset has it."""
else:
    Overrides = create_model(
        "Overrides",
        __config__=ConfigDict(extra="forbid", frozen=True),
        __doc__="Arguments that differ from the preset's; what is left empty stays as the preset has it.",
        **{name: _optional(name) for name in FinetuneConfig.model_fields},
    )


def given(overrides: Overrides | dict[str, Any] | None) -> dict[str, Any]:
    """The arguments that ``overrides`` really sets, as ``trainer.config.argv.resolve_values`` takes them."""
    values = overrides.model_dump(exclude_unset=True) if isinstance(overrides, BaseModel) else overrides or {}
    return {name: value for name, value in values.items() if value is not None}


def described(schema: dict[str, Any], preset: Preset) -> dict[str, Any]:
    """The parameter schema of the flow ``train``, its help saying what ``preset`` has for each argument."""
    schema = deepcopy(schema)
    properties = schema["definitions"][Overrides.__name__]["properties"]
    for name, prop in properties.items():
        value = getattr(preset.config, name)
        shown = " ".join(map(str, value)) if isinstance(value, list) else value
        prop["description"] = f"{prop['description']} In {preset.name}: {shown}."
    return schema
