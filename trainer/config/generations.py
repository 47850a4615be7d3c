"""Which arguments a training has: the base model's generation decides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny, SerializerFunctionWrapHandler, WrapSerializer
from pydantic.fields import FieldInfo

from trainer.config.finetune_config import FinetuneConfig
from trainer.config.n17_config import N17Config
from trainer.generation import DEFAULT, Generation, generation_in, named_generation

CONFIGS: Mapping[str, type[FinetuneConfig]] = {config.generation.name: config for config in (FinetuneConfig, N17Config)}
"""By the name of the generation."""


def _of_all() -> dict[str, FieldInfo]:
    found: dict[str, FieldInfo] = {}
    for config in CONFIGS.values():
        found |= {name: field for name, field in config.fields().items() if name not in found}
    return found


ALL_FIELDS: Mapping[str, FieldInfo] = _of_all()
"""Every flag of any generation."""


def generation_named(base_model: object) -> Generation | None:
    """The generation of a base model's folder, or that its name tells; None where neither does.

    Raises ``UsageError`` for a GR00T that pippa does not support, and for another model.
    """
    if not isinstance(base_model, str):
        return None
    folder = Path(base_model).expanduser()
    try:
        if (folder / "config.json").is_file():
            return generation_in(folder)
    except (OSError, ValueError):  # a name too long for a file
        return None
    return named_generation(base_model)


def config_of(base_model: object) -> type[FinetuneConfig]:
    """The arguments of a training of ``base_model``; those of the default one where it is not known. Raises as
    ``generation_named``.
    """
    return CONFIGS[(generation_named(base_model) or DEFAULT).name]


def other_flags(config: type[FinetuneConfig], given: Iterable[str]) -> list[str]:
    """What to write instead of the flags in ``given`` that are another generation's."""
    found = []
    for name in given:
        if name not in ALL_FIELDS or name in config.fields():
            continue
        instead = config.derived.get(name) or config.elsewhere.get(name) or "leave it out."
        theirs = next(each.generation for each in CONFIGS.values() if name in each.fields())
        found.append(f"--{name.replace('_', '-')} is a flag of {theirs}: {instead}")
    return found


def _told_by(values: Mapping[str, Any]) -> type[FinetuneConfig]:
    """Whose arguments ``values`` are by their names alone: the first that has them all, or lacks the fewest."""
    return min(CONFIGS.values(), key=lambda config: len(values.keys() - config.model_fields.keys()))


def _read(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    values = {name: each for name, each in value.items() if name != "generation"}
    return CONFIGS.get(value.get("generation", ""), _told_by(values)).model_validate(values)


def _write(config: FinetuneConfig, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
    values = handler(config)
    told = _told_by(values) is type(config)
    return values if told else {"generation": config.generation.name, **values}


AnyConfig = Annotated[SerializeAsAny[FinetuneConfig], BeforeValidator(_read), WrapSerializer(_write)]
"""The configuration of a training of any generation, as a field; where the names of its arguments don't tell which, it
is written with them.
"""
