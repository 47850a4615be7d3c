"""How a dataset is read where its files contradict each other: a person decides, and it is part of a run's lineage."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, field_validator

from trainer.data.exclusion import as_texts, parse_exclusion
from trainer.errors import UsageError
from trainer.generation import DEFAULT, GENERATIONS

VideoAlignment = Literal["timestamp", "index"]


class DataOptions(BaseModel):
    """Fields of the same names are in ``FinetuneConfig``, which explains them; the generation is its base model's."""

    model_config = ConfigDict(frozen=True)

    video_alignment: VideoAlignment = "timestamp"
    recompute_statistics: bool = False
    exclude_episodes: tuple[str, ...] = ()
    """Of this one dataset; as ``trainer.data.exclusion`` writes them."""

    generation: str = DEFAULT.name
    """Whose processing the data are for: it decides what a data config asks of them."""

    @field_validator("exclude_episodes", mode="before")
    @classmethod
    def _in_one_form(cls, value: Iterable[str]) -> tuple[str, ...]:
        return tuple(as_texts(parse_exclusion(value)))

    @property
    def computes_statistics(self) -> bool:
        """Whether statistics come from the data, though ``meta/stats.json`` has some: it counts every episode."""
        return self.recompute_statistics or bool(self.exclude_episodes)

    def to_argv(self) -> list[str]:
        """As flags; none for what is the default."""
        alignment = ["--video-alignment", self.video_alignment] if self.video_alignment != "timestamp" else []
        recompute = ["--recompute-statistics"] if self.recompute_statistics else []
        excluded = ["--exclude-episodes", *self.exclude_episodes] if self.exclude_episodes else []
        generation = ["--generation", self.generation] if self.generation != DEFAULT.name else []
        return [*alignment, *recompute, *generation, *excluded]

    @classmethod
    def add_to(cls, parser: ArgumentParser) -> None:
        """Let ``parser`` take these flags; ``of`` finds them in what it parsed."""
        parser.add_argument(
            "--video-alignment",
            choices=get_args(VideoAlignment),
            default="timestamp",
            help="with the check: a row's frame is the one at its timestamp, or (index) that of its number",
        )
        parser.add_argument(
            "--recompute-statistics", action="store_true", help="with the check: don't use meta/stats.json"
        )
        parser.add_argument(
            "--exclude-episodes",
            nargs="+",
            default=[],
            metavar="N",
            help="with the check: episodes that trainings will leave out, such as 3 17 40-44",
        )
        parser.add_argument(
            "--generation",
            choices=[generation.name for generation in GENERATIONS],
            default=DEFAULT.name,
            help=f"with the check: the generation of GR00T that the data are for [{DEFAULT.name}]",
        )

    @classmethod
    def of(cls, arguments: Namespace) -> DataOptions:
        """Those that were given."""
        return cls(
            video_alignment=arguments.video_alignment,
            recompute_statistics=arguments.recompute_statistics,
            generation=arguments.generation,
            exclude_episodes=cls.excluded(arguments.exclude_episodes),
        )

    @staticmethod
    def excluded(words: Sequence[str]) -> tuple[str, ...]:
        """What ``--exclude-episodes`` says of one dataset. Raises ``UsageError``."""
        try:
            return tuple(as_texts(parse_exclusion(words)))
        except ValueError as error:
            raise UsageError(f"--exclude-episodes: {error}.", "Write it as 3 17 40-44.") from None
