"""How a dataset is read where it says two things: what a person decides, part of a run's lineage."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict

VideoAlignment = Literal["timestamp", "index"]


class DataOptions(BaseModel):
    """Fields of the same names are in ``FinetuneConfig``, which explains them."""

    model_config = ConfigDict(frozen=True)

    video_alignment: VideoAlignment = "timestamp"
    recompute_statistics: bool = False

    def to_argv(self) -> list[str]:
        """As flags; none for what is the default."""
        alignment = ["--video-alignment", self.video_alignment] if self.video_alignment != "timestamp" else []
        return [*alignment, *(["--recompute-statistics"] if self.recompute_statistics else [])]

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

    @classmethod
    def of(cls, arguments: Namespace) -> DataOptions:
        """Those that were given."""
        return cls(video_alignment=arguments.video_alignment, recompute_statistics=arguments.recompute_statistics)
