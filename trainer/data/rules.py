"""What a generation of GR00T asks of data configs and datasets: ``RULES`` in ``trainer.data.<package>.rules``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from trainer.data.data_config import DataConfig
from trainer.data.dataset_meta import DatasetMeta
from trainer.data.problem import Problem
from trainer.generation import generation_by_name


class Rules(NamedTuple):
    """What a generation asks."""

    built_in: Callable[[], Mapping[str, DataConfig]]
    """Its data configs by name."""
    read: Callable[[str | DataConfig], DataConfig]
    """The data config that a name, a file or a text means; raises ``UsageError``."""
    declared: Callable[[str | DataConfig], str | DataConfig]
    """The same as it travels in a run: a name, or the whole declaration."""
    unsupported: Callable[[DataConfig], list[str]]
    """What of a data config it can't do, as one would say it."""
    embodiment_tags: Collection[str]
    cameras_alike: bool
    """Whether all cameras must have one resolution."""
    as_checked: Callable[[DataConfig], DataConfig]
    """A data config as the checks that the generations share are to see it."""
    check: Callable[[DatasetMeta, DataConfig], tuple[list[Problem], list[Problem]]]
    """Problems and warnings beyond those; the keys of the data config are there."""


def rules_of(generation: str) -> Rules:
    """The rules of the generation of that name."""
    return generation_by_name(generation).module("data", "rules").RULES
