"""How a dataset is read where it says two things: what a person decides, part of a run's lineage."""

from __future__ import annotations

from typing import Literal

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
