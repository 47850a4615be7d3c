"""Which arguments a training has: the base model's generation decides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny
from pydantic.fields import FieldInfo

from trainer.config.finetune_config import FinetuneConfig
from trainer.config.n17_config import N17Config
from trainer.generation import N15, Generation, generation_in, named_generation

CONFIGS: Mapping[str, type[FinetuneConfig]] = {config.generation.name: config for config in (FinetuneConfig, N17Config)}
"""By the name of the generation."""

ALL_FIELDS: Mapping[str, FieldInfo] = {
    **FinetuneConfig.fields(),
    **{name: field for name, field in N17Config.fields().items() if name not in FinetuneConfig.fields()},
}
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
    """The arguments of a training of ``base_model``; N1.5's where its generation is not known. Raises as
    ``generation_named``.
    """
    return CONFIGS[(generation_named(base_model) or N15).name]


def other_flags(config: type[FinetuneConfig], given: Iterable[str]) -> list[str]:
    """What to write instead of the flags in ``given`` that are another generation's."""
    found = []
    for name in given:
        if name not in ALL_FIELDS or name in config.fields():
            continue
        instead = config.derived.get(name) or _INSTEAD.get(name) or "leave it out."
        theirs = next(each.generation for each in CONFIGS.values() if name in each.fields())
        found.append(f"--{name.replace('_', '-')} is a flag of {theirs}: {instead}")
    return found


_INSTEAD = {
    "global_batch_size": "GR00T N1.5 has --batch-size, the samples of each GPU.",
    "use_wandb": "GR00T N1.5 has --report-to wandb.",
    "modality_config_path": "GR00T N1.5 has --data-config.",
    "experiment_name": "name the whole folder with --output-dir; --name names the run.",
    "wandb_project": "set WANDB_PROJECT.",
    "save_total_limit": "five checkpoints are kept on the disk.",
}


def _read(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return (N17Config if "global_batch_size" in value else FinetuneConfig).model_validate(value)


AnyConfig = Annotated[SerializeAsAny[FinetuneConfig], BeforeValidator(_read)]
"""The configuration of a training of any generation, as a field."""
