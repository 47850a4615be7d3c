"""Where the parts of an episode lie: rows of a table, frames of a video. A file may hold many episodes (LeRobot v3)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class RowRange(NamedTuple):
    """Rows that follow one another in a table."""

    file: Path
    first: int = 0
    end: int | None = None
    """Excluded; None for all that the table has."""


@dataclass(frozen=True)
class TableRows:
    """The rows of one episode, in order."""

    runs: tuple[RowRange, ...]
    episode: int | None = None
    """Its number, where the table holds others as well."""

    @property
    def file(self) -> Path:
        """The table with the first of them."""
        return self.runs[0].file

    def __str__(self) -> str:
        return str(self.file) if self.episode is None else f"{self.file}, episode {self.episode}"


class Clip(NamedTuple):
    """An episode's frames in a video that holds others as well."""

    path: Path
    start: float
    """Seconds from the video's start."""
    rows: int
    """Of the episode."""
    fps: float
    """Rows a second."""
    episode: int

    def __str__(self) -> str:
        return f"{self.path}, episode {self.episode}"


Video = Path | Clip
"""Where a video lies: a whole file, or a part of one."""


def file_of(video: Video) -> Path:
    """The file of a video."""
    return video.path if isinstance(video, Clip) else video
