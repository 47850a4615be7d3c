"""What a preset is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple, TypeAlias

from trainer.config.finetune_config import FinetuneConfig
from trainer.config.generations import config_of
from trainer.errors import UsageError

Goal: TypeAlias = Literal["generalise", "memorise"]
"""What a training is for: a policy that generalises, or one that memorises its demonstrations."""


class Value(NamedTuple):
    """The value a preset gives an argument, and why."""

    value: object
    reason: str


@dataclass(frozen=True)
class Preset:
    """A named set of arguments. Arguments it does not name keep the defaults of its base model's generation."""

    name: str
    summary: str
    environment: Literal["uv", "conda"]
    """How upstream's recipe installs Isaac-GR00T; decides which ``isaac`` image is its own."""
    arguments: Mapping[str, Value]
    wandb_tags: tuple[str, ...] = field(default=())
    goal: Goal = "generalise"

    @cached_property
    def kind(self) -> type[FinetuneConfig]:
        """The arguments it has: its base model decides."""
        return config_of(self.values.get("base_model_path"))

    @cached_property
    def config(self) -> FinetuneConfig:
        """The preset as a complete configuration."""
        values, problems = self.kind.resolved(self.values) if self.kind.typed_otherwise else (self.values, [])
        if problems:
            raise UsageError("\n".join(problems), f"Correct the preset {self.name}.")
        return self.kind.model_validate(values)

    @property
    def known(self) -> dict[str, object]:
        """The value of every argument; without ``dataset_path`` where it names none."""
        defaults = {name: each.default for name, each in self.kind.fields().items() if not each.is_required()}
        return {**defaults, **self.values}

    @property
    def values(self) -> dict[str, object]:
        """What it sets, by argument."""
        return {name: argument.value for name, argument in self.arguments.items()}

    def reason(self, argument: str) -> str:
        """Why the preset sets ``argument``; empty where it keeps the default."""
        return self.arguments[argument].reason if argument in self.arguments else ""
