"""LeRobot v3, read in place: many episodes in a table and in a video, and lists as tables.

``meta/episodes`` says where an episode lies. Of its rows that may be stale: the rows say themselves whose they are, and
LeRobot's own look-ups go by that. Of its frames, where they begin.

Upstream: ``lerobot/datasets/v30/convert_dataset_v21_to_v30.py`` and ``lerobot/datasets/lerobot_dataset.py``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pydantic import Field, ValidationError

from trainer.data.info import InfoV3, file_in
from trainer.data.layout_v2 import Episode
from trainer.data.locations import Clip, TableRows
from trainer.data.meta_files import AGAIN_V3, read_text
from trainer.errors import DatasetError
from trainer.wrong_values import first_problem

if TYPE_CHECKING:
    import numpy as np

    from trainer.data.shared_tables import SharedTables

_PLACE = ("chunk_index", "file_index", "from_timestamp")


class VideoPart(NamedTuple):
    """Where the video of one camera in one episode lies."""

    chunk: int
    file: int
    start: float
    """Seconds from the beginning of the file."""


class EpisodeV3(Episode):
    """One row of ``meta/episodes``."""

    data: tuple[int, int] | None = None
    """Chunk and file of its rows, where ``meta/episodes`` has them. They may be stale."""
    videos: dict[str, VideoPart | str] = Field(default_factory=dict)
    """By camera; where it can't be meant, what is wrong."""


def is_v3(folder: Path) -> str | None:
    """The version, such as ``v3.0``, when the dataset in ``folder`` has the v3 layout. Raises ``DatasetError``."""
    try:
        version = json.loads(read_text(folder / "meta/info.json")).get("codebase_version")
    except (ValueError, RecursionError, AttributeError):
        return None  # the check says what is wrong with it
    return version if isinstance(version, str) and version.startswith("v3") else None


class LayoutV3:
    """Where the episodes of a dataset lie."""

    EPISODES: ClassVar = "meta/episodes"
    TASKS: ClassVar = "meta/tasks.parquet"
    REMOVE: ClassVar = "delete the episode with lerobot-edit-dataset"

    def __init__(self, path: Path, info: InfoV3, episodes: Sequence[Episode]) -> None:
        """``episodes`` are those of ``load_episodes_v3`` that have rows."""
        self.path = path
        self.info = info
        self._episodes = {each.episode_index: each for each in episodes if isinstance(each, EpisodeV3)}
        self._tables: SharedTables | None = None

    @property
    def tables(self) -> SharedTables:
        """Its tables. Raises ``DatasetError`` where the metadata leads out of the dataset."""
        if self._tables is None:
            from trainer.data.shared_tables import Listed, SharedTables  # with pyarrow

            root = self.path / Path(self.info.data_path.partition("{")[0]).parent
            listed = [Listed(each.episode_index, each.length, self._named_table(each)) for each in self.episodes]
            self._tables = SharedTables(root, listed)
        return self._tables

    @property
    def episodes(self) -> list[EpisodeV3]:
        """Those that have rows."""
        return list(self._episodes.values())

    def _named_table(self, episode: EpisodeV3) -> Path | None:
        if episode.data is None:
            return None
        chunk, number = episode.data
        values: dict[str, int | str] = {"chunk_index": chunk, "file_index": number, "video_key": ""}
        return file_in(self.path, "data_path", self.info.data_path, **values)

    def table_file(self, episode: int) -> Path:
        """The file that has its rows. Raises ``DatasetError`` where they are not to be found."""
        return self.rows(episode).file

    def rows(self, episode: int) -> TableRows:
        """Its rows. Raises ``DatasetError`` where they are not to be found."""
        return self.tables.rows(episode)

    def where(self, episode: int) -> str:
        """What its table is called in messages."""
        try:
            return str(self.rows(episode))
        except DatasetError:
            return f"{self.path / self.EPISODES}, episode {episode}"

    def video(self, feature: str, episode: int) -> Clip:
        """The frames of the camera ``feature``. Raises ``DatasetError``."""
        if self.info.video_path is None:
            raise DatasetError(
                f"{self.path / 'meta/info.json'}: no video_path, but the camera {feature} is recorded as video.",
                AGAIN_V3,
            )
        about = self._episodes[episode]
        place = about.videos.get(feature, "no columns of it, which LeRobot v3 has")
        if isinstance(place, str):
            raise DatasetError(
                f"{self.path / self.EPISODES}: the place of camera {feature} in episode {episode}: {place}.", AGAIN_V3
            )
        values: dict[str, int | str] = {"chunk_index": place.chunk, "file_index": place.file, "video_key": feature}
        file = file_in(self.path, "video_path", self.info.video_path, **values)
        return Clip(file, place.start, about.length, self.info.fps, episode)

    def columns(self, episode: int, names: Sequence[str], optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """Columns of its rows (``trainer.data.tables``). Raises ``DatasetError``."""
        return self.tables.columns(episode, names, optional)


def load_episodes_v3(folder: Path, info: InfoV3) -> list[EpisodeV3]:
    """The rows of ``meta/episodes``, by index. Raises ``DatasetError``."""
    files = sorted((folder / "meta/episodes").glob("*/*.parquet"))
    if not files:
        raise DatasetError(f"{folder / 'meta/episodes'}: no parquet files, as LeRobot v3 has them.", AGAIN_V3)
    episodes = [episode for file in files for episode in _episodes_in(file, info)]
    episodes.sort(key=lambda episode: episode.episode_index)
    indices = [episode.episode_index for episode in episodes]
    if twice := [one for one, following in pairwise(indices) if one == following]:
        raise DatasetError(f"{folder / 'meta/episodes'}: episode_index {twice[0]} occurs twice.", AGAIN_V3)
    if not any(episode.length for episode in episodes):
        raise DatasetError(f"{folder / 'meta/episodes'}: no episodes.", "Record some, or download the dataset again.")
    return episodes


def load_tasks_v3(folder: Path) -> dict[int, str]:
    """Task index to instruction, from ``meta/tasks.parquet``. Raises ``DatasetError``.

    LeRobot writes the table of a data frame whose index is the instruction: the column is called ``task`` or, where
    the index has no name, ``__index_level_0__``.
    """
    file = folder / "meta/tasks.parquet"
    rows = _rows(file)
    found = {}
    for row in rows:
        task = next((row[name] for name in ("task", "__index_level_0__") if isinstance(row.get(name), str)), None)
        if task is None or not isinstance(row.get("task_index"), int):
            raise DatasetError(f"{file}: a row without task and task_index; it has {', '.join(row)}.", AGAIN_V3)
        found[row["task_index"]] = task
    return dict(sorted(found.items()))


def _episodes_in(file: Path, info: InfoV3) -> Iterator[EpisodeV3]:
    for row in _rows(file):
        try:
            videos = {
                camera: _video_part(row, camera)
                for camera in info.videos
                # A camera may be described and never recorded, as in Isaac-GR00T's demo data.
                if any(f"videos/{camera}/{name}" in row for name in _PLACE)
            }
            tasks = row.get("tasks")
            chunk, number = row.get("data/chunk_index"), row.get("data/file_index")
            yield EpisodeV3(
                episode_index=int(row["episode_index"]),
                length=int(row["length"]),
                tasks=[tasks] if isinstance(tasks, str) else [str(task) for task in tasks or ()],
                data=(chunk, number) if isinstance(chunk, int) and isinstance(number, int) else None,
                videos=videos,
            )
        except KeyError as error:
            raise DatasetError(f"{file}: no column {error}, which LeRobot v3 has.", AGAIN_V3) from None
        except ValidationError as error:  # a ValueError as well
            raise DatasetError(f"{file}: a row that can't be meant ({first_problem(error)}).", AGAIN_V3) from None
        except (TypeError, ValueError, OverflowError) as error:
            raise DatasetError(f"{file}: a row that can't be meant ({error}).", AGAIN_V3) from None


def _video_part(row: dict[str, Any], camera: str) -> VideoPart | str:
    try:
        chunk, file, start = (row[f"videos/{camera}/{name}"] for name in _PLACE)
        part = VideoPart(int(chunk), int(file), float(start))
    except KeyError as error:
        return f"no column {error}, which LeRobot v3 has"
    except (TypeError, ValueError, OverflowError) as error:
        return f"a row that can't be meant ({error})"
    return part if math.isfinite(part.start) else "a row that can't be meant (from_timestamp is no number)"


def _rows(file: Path) -> list[dict[str, Any]]:
    """A metadata table, without the statistics that make it large."""
    from trainer.data.tables import opened_table, require_readable  # with pyarrow

    with opened_table(file, AGAIN_V3) as table:
        names = [name for name in table.schema_arrow.names if not name.startswith("stats/")]
        require_readable(file, table, names, cure=AGAIN_V3)
        return table.read(columns=names).to_pylist()
