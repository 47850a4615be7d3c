"""LeRobot v2.0 and v2.1: a table and a video for each episode, and lists as JSON lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import BaseModel, BeforeValidator, StrictStr

from trainer.data.info import Info, file_in
from trainer.data.locations import RowRange, TableRows
from trainer.data.meta_files import Count, Whole, read_lines
from trainer.errors import DatasetError

if TYPE_CHECKING:
    import numpy as np


def _one_text(value: object) -> object:
    """A list of one text is that text."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _texts(value: object) -> list[str]:
    """Those of ``value`` that are texts. Nothing else is kept: there may be a million episodes."""
    return [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)]


class Episode(BaseModel):
    """One line of ``meta/episodes.jsonl``."""

    episode_index: Count
    length: Count
    tasks: Annotated[list[str], BeforeValidator(_texts)] = []
    """Instructions, for people: what is trained on stands in the tables."""


class Task(BaseModel):
    """One line of ``meta/tasks.jsonl``."""

    task_index: Whole
    task: Annotated[StrictStr, BeforeValidator(_one_text)]


@dataclass(frozen=True)
class LayoutV2:
    """Where the episodes of a dataset lie."""

    EPISODES: ClassVar = "meta/episodes.jsonl"
    TASKS: ClassVar = "meta/tasks.jsonl"
    REMOVE: ClassVar = "remove the episode from meta/episodes.jsonl"

    path: Path
    info: Info

    def table_file(self, episode: int) -> Path:
        """The file of its table."""
        return self._file("data_path", self.info.data_path, episode, "")

    def rows(self, episode: int) -> TableRows:
        """Its rows."""
        return TableRows((RowRange(self.table_file(episode)),))

    def where(self, episode: int) -> str:
        """What its table is called in messages."""
        return str(self.table_file(episode))

    def video(self, feature: str, episode: int) -> Path:
        """The video of the camera ``feature``. Raises ``DatasetError``."""
        if self.info.video_path is None:
            raise DatasetError(
                f"{self.path / 'meta/info.json'}: no video_path, but the camera {feature} is recorded as video.",
                "Add the video_path that LeRobot writes: "
                "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
            )
        return self._file("video_path", self.info.video_path, episode, feature)

    def columns(self, episode: int, names: Sequence[str], optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """Columns of its table (``trainer.data.tables``). Raises ``DatasetError``."""
        from trainer.data.tables import read_columns

        return read_columns(self.table_file(episode), names, optional)

    def _file(self, name: str, template: str, episode: int, video_key: str) -> Path:
        chunk = episode // self.info.chunks_size
        values = {"episode_chunk": chunk, "episode_index": episode, "video_key": video_key}
        return file_in(self.path, name, template, **values)


def load_episodes(path: Path) -> list[Episode]:
    """Read ``meta/episodes.jsonl`` of the dataset at ``path``. Raises ``DatasetError``."""
    file = path / "meta/episodes.jsonl"
    episodes = list(read_lines(file, Episode))
    if not any(episode.length for episode in episodes):
        raise DatasetError(f"{file}: no episodes.", "Record some, or download the dataset again.")
    if twice := _twice(episode.episode_index for episode in episodes):
        raise DatasetError(f"{file}: episode_index {twice[0]} occurs twice.", "Keep one line per episode.")
    return episodes


def load_tasks(path: Path) -> dict[int, str]:
    """Read ``meta/tasks.jsonl`` of the dataset at ``path``: task index to instruction. Raises ``DatasetError``."""
    file = path / "meta/tasks.jsonl"
    tasks: dict[int, str] = {}
    for line in read_lines(file, Task):
        if tasks.setdefault(line.task_index, line.task) != line.task:
            raise DatasetError(
                f"{file}: task_index {line.task_index} occurs twice, with different instructions.",
                "Keep one line per task.",
            )
    return tasks


def _twice(values: Iterable[int]) -> list[int]:
    return sorted(value for value, count in Counter(values).items() if count > 1)
