"""The metadata of a dataset, read and validated: LeRobot v2.0, v2.1 or v3 plus GR00T's ``modality.json``.

Entries that no data config uses may be wrong or missing: each is looked at when something needs it.

Upstream: ``gr00t/data/schema.py``, ``gr00t/data/dataset.py`` and ``getting_started/LeRobot_compatible_data_schema.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field, StrictBool, StrictStr, ValidationError, model_validator

from trainer.data.info import Camera, Info, InfoV3, load_info
from trainer.data.layout_v2 import Episode, LayoutV2, load_episodes, load_tasks
from trainer.data.layout_v3 import LayoutV3, load_episodes_v3, load_tasks_v3
from trainer.data.locations import TableRows, Video, file_of
from trainer.data.meta_files import Count, Whole, read_document
from trainer.errors import DatasetError
from trainer.wrong_values import first_problem

if TYPE_CHECKING:
    import numpy as np

RotationType = Literal[
    "axis_angle",
    "quaternion",
    "rotation_6d",
    "matrix",
    "euler_angles_rpy",
    "euler_angles_ryp",
    "euler_angles_pry",
    "euler_angles_pyr",
    "euler_angles_yrp",
    "euler_angles_ypr",
]


class StateActionEntry(BaseModel):
    """Where one state or action key lies: columns ``start`` to ``end`` (half-open) of a vector column."""

    start: Count
    end: Annotated[Whole, Field(ge=1, le=65_536)]
    original_key: StrictStr | None = None
    rotation_type: RotationType | None = None
    absolute: StrictBool = True
    dtype: Any = "float64"

    @model_validator(mode="after")
    def _ordered(self) -> StateActionEntry:
        if self.end <= self.start:
            raise ValueError(f"end ({self.end}) must be greater than start ({self.start})")
        return self

    @property
    def width(self) -> int:
        """Number of dimensions."""
        return self.end - self.start


class SourceEntry(BaseModel):
    """A camera or an annotation and the dataset's own name for it."""

    original_key: StrictStr | None = None


class Modality(BaseModel):
    """``meta/modality.json``: GR00T's names for parts of the dataset's columns and for its cameras."""

    state: dict[str, StateActionEntry]
    action: dict[str, StateActionEntry]
    video: dict[str, SourceEntry]
    annotation: dict[str, SourceEntry] = {}
    unusable: dict[str, str] = {}
    """Entries that say something impossible, such as ``state.gripper``, and what. They only matter where used."""

    @model_validator(mode="before")
    @classmethod
    def _entry_by_entry(cls, document: Any) -> Any:
        if not isinstance(document, dict):
            return document
        kept, unusable = dict(document), {}
        kinds = {"state": StateActionEntry, "action": StateActionEntry, "video": SourceEntry, "annotation": SourceEntry}
        for kind, model in kinds.items():
            entries = document.get(kind)
            if not isinstance(entries, dict):
                continue
            kept[kind] = {}
            for key, entry in entries.items():
                try:
                    kept[kind][key] = model.model_validate(entry)
                except ValidationError as error:
                    unusable[f"{kind}.{key}"] = first_problem(error, model)
        return kept | {"unusable": unusable}

    def column(self, modality: str, key: str) -> str:
        """The parquet column (or, for video, the LeRobot feature) ``modality.key`` comes from."""
        entry = getattr(self, modality)[key]
        if entry.original_key:
            return entry.original_key
        return {"state": "observation.state", "action": "action", "video": key}.get(modality, f"{modality}.{key}")

    def keys(self, modality: str) -> list[str]:
        """The keys of ``modality``, without its prefix."""
        return list(getattr(self, modality))


@dataclass(frozen=True)
class DatasetMeta:
    """The metadata of one dataset folder."""

    path: Path
    info: Info
    modality: Modality
    episodes: list[Episode]
    """In the order of the file, which is the order of the steps; those of length 0 are left out."""
    tasks: dict[int, str]
    layout: LayoutV2 | LayoutV3
    empty: list[int] = field(default_factory=list)
    """Episodes that are listed with length 0."""
    no_tasks: DatasetError | None = None
    """Why there are no ``tasks``. Only what names them by number needs any."""

    @classmethod
    def load(cls, path: Path) -> DatasetMeta:
        """Read ``path/meta``. Raises ``DatasetError`` for the first file that is needed and missing or broken."""
        require_dataset(path)
        info = load_info(path)
        return cls.of(path, info, load_modality(path), list_episodes(path, info))

    @classmethod
    def of(cls, path: Path, info: Info, modality: Modality, episodes: Sequence[Episode]) -> DatasetMeta:
        """From what was read already; ``episodes`` as they are listed."""
        tasks, no_tasks = {}, None
        try:
            tasks = list_tasks(path, info)
        except DatasetError as error:
            no_tasks = error
        empty = [episode.episode_index for episode in episodes if episode.length == 0]
        recorded = [each for each in episodes if each.length]
        layout = LayoutV3(path, info, recorded) if isinstance(info, InfoV3) else LayoutV2(path, info)
        return cls(path, info, modality, recorded, tasks, layout, empty, no_tasks)

    def where(self, episode: int) -> str:
        """What the table of an episode is called in messages."""
        return self.layout.where(episode)

    def parquet_path(self, episode: int) -> Path:
        """The file with the table of an episode; in LeRobot v3 it holds others as well."""
        return self.layout.table_file(episode)

    def rows(self, episode: int) -> TableRows:
        """Where the rows of an episode lie. Raises ``DatasetError`` where they are not to be found."""
        return self.layout.rows(episode)

    def columns(self, episode: int, names: Sequence[str], optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """Columns of an episode, as ``trainer.data.tables.read_columns`` gives them. Raises ``DatasetError``."""
        return self.layout.columns(episode, names, optional)

    def video(self, key: str, episode: int) -> Video:
        """The video of camera ``key`` (a name of ``modality.json``, without ``video.``) in an episode.

        Raises ``DatasetError`` where the metadata doesn't say.
        """
        return self.layout.video(self.modality.column("video", key), episode)

    def video_path(self, key: str, episode: int) -> Path:
        """The file of that video; in LeRobot v3 it holds other episodes as well."""
        return file_of(self.video(key, episode))

    def camera(self, key: str) -> Camera:
        """What camera ``key`` is. Raises ``DatasetError`` when ``info.json`` doesn't say."""
        feature, file = self.modality.column("video", key), self.path / "meta/info.json"
        if feature not in self.info.features:
            raise DatasetError(
                f"{file}: no feature {feature!r}, which video.{key} of meta/modality.json names; "
                f"its cameras are {', '.join(self.info.cameras()) or 'none'}.",
                f"Correct original_key of video.{key}.",
            )
        if feature not in self.info.cameras():
            raise DatasetError(
                f"{file}: {feature!r}, which video.{key} of meta/modality.json names, is no camera: its dtype is "
                f"neither video nor image.",
                f"Correct original_key of video.{key}; the cameras are {', '.join(self.info.cameras()) or 'none'}.",
            )
        try:
            return self.info.camera(feature)
        except ValueError as error:
            raise DatasetError(
                f"{file}: the camera {feature!r} is not described: {error}.",
                'Its entry in features needs shape, names ("height", "width", "channels") and video.fps.',
            ) from error

    def in_tables(self, key: str) -> bool:
        """Whether camera ``key`` is recorded as images in the tables (LeRobot with ``use_videos`` off)."""
        feature = self.info.features.get(self.modality.column("video", key))
        return isinstance(feature, dict) and feature.get("dtype") == "image"

    @cached_property
    def total_frames(self) -> int:
        """Steps of all episodes together."""
        return sum(episode.length for episode in self.episodes)


def require_dataset(path: Path) -> None:
    """Raise ``DatasetError`` when ``path`` is no dataset folder, or says that it has another layout than it has."""
    if not (path / "meta").is_dir():
        raise DatasetError(
            f"{path}: not a LeRobot dataset, it has no meta folder.",
            "Point at the folder that holds meta/, data/ and videos/.",
        )


def list_episodes(path: Path, info: Info | None) -> Sequence[Episode]:
    """The episodes as the dataset at ``path`` lists them, in whichever layout. Raises ``DatasetError``."""
    if isinstance(info, InfoV3):
        return load_episodes_v3(path, info)
    listed = path / LayoutV2.EPISODES
    if (path / "meta/episodes").is_dir() and not listed.exists():
        raise DatasetError(
            f"{path / 'meta/info.json'}: codebase_version {info.codebase_version if info else ''} has "
            f"{LayoutV2.EPISODES}, but there is meta/episodes, as in a LeRobot v3 layout.",
            "Download the dataset again: files of two versions were mixed up.",
        )
    return load_episodes(path)


def list_tasks(path: Path, info: Info) -> dict[int, str]:
    """Task index to instruction, in whichever layout. Raises ``DatasetError``."""
    return load_tasks_v3(path) if isinstance(info, InfoV3) else load_tasks(path)


def load_modality(path: Path) -> Modality:
    """Read ``meta/modality.json`` of the dataset at ``path``. Raises ``DatasetError``."""
    return read_document(
        path / "meta/modality.json",
        Modality,
        "GR00T needs this file beside LeRobot's own: it names the slices of observation.state and action, the cameras "
        "and the annotations. `pippa data init PATH` proposes it.",
    )
