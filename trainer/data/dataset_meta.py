"""The metadata of a dataset, read and validated: LeRobot v2.0/v2.1 plus GR00T's ``modality.json``.

Entries that no data config uses may be wrong or missing: each is looked at when something needs it.

Upstream: ``gr00t/data/schema.py``, ``gr00t/data/dataset.py`` and ``getting_started/LeRobot_compatible_data_schema.md``.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictStr,
    ValidationError,
    field_validator,
    model_validator,
)

from trainer.data.meta_files import Count, Positive, Whole, first_problem, read_document, read_lines
from trainer.data.paths import checked_template, filled
from trainer.errors import DatasetError

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

CONVERT_V3 = (
    "`pippa data push PATH --name NAME` converts it to v2.1 on its way into the store, where trainings read "
    "it; `pippa data pull NAME FOLDER` gives you the converted files."
)
_AXES = {"height": 0, "h": 0, "width": 1, "w": 1, "channel": 2, "channels": 2, "c": 2}


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
                    unusable[f"{kind}.{key}"] = first_problem(error)
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


class Camera(BaseModel):
    """What ``info.json`` says about a camera. ``resolution`` is width, height, as upstream's metadata has it."""

    resolution: tuple[int, int]
    channels: int
    fps: float


def _one_size(value: object) -> object:
    return value if isinstance(value, list | tuple) or value is None else (value,)


class Feature(BaseModel):
    """An entry of ``features`` in ``info.json``. A shape written as one number is that of a vector."""

    model_config = ConfigDict(extra="ignore")

    dtype: Any = None
    shape: Annotated[tuple[Count, ...] | None, Field(max_length=8), BeforeValidator(_one_size)] = None
    names: Any = None
    fps: Any = None
    info: dict[str, Any] | None = None
    video_info: dict[str, Any] | None = None
    """v2.0's name for ``info``."""

    @property
    def width(self) -> int | None:
        """Numbers in a row; None where it says nothing."""
        return math.prod(self.shape) if self.shape else None

    @property
    def details(self) -> dict[str, Any]:
        """What is said about a video."""
        return {**(self.info or {}), **(self.video_info or {})}

    @property
    def is_depth_map(self) -> bool:
        """Whether it is marked as a camera of distances instead of colours."""
        return self.details.get("video.is_depth_map") is True or self.details.get("is_depth_map") is True

    def camera(self, otherwise_fps: float | None) -> Camera:
        """What it says about its frames. Raises ``ValueError`` for what is missing or contradicts itself.

        Without ``names`` (older recordings) the axes are height, width, channels, unless only the first one can be the
        channels. Without a rate of its own it has the dataset's, ``otherwise_fps``.
        """
        if self.shape is None or len(self.shape) not in (2, 3) or min(self.shape) < 1:
            raise ValueError(f"shape: {list(self.shape or ()) or 'missing'} instead of [height, width, channels]")
        axes = self._axes(self.shape)
        if len(self.shape) == 2 and "video.channels" not in self.details:
            raise ValueError("shape: without channels, and video.channels is missing as well")
        channels = self.shape[axes[2]] if len(self.shape) == 3 else self.details["video.channels"]
        fps = next((each for each in (self.details.get("video.fps"), self.fps) if each is not None), otherwise_fps)
        if fps is None:
            raise ValueError("video.fps: missing, and the dataset has no fps either")
        try:
            said = _Rate.model_validate({"video.channels": channels, "video.fps": fps})
        except ValidationError as error:
            raise ValueError(first_problem(error)) from error
        return Camera(resolution=(self.shape[axes[1]], self.shape[axes[0]]), channels=said.channels, fps=said.fps)

    def _axes(self, shape: tuple[int, ...]) -> list[int]:
        """The positions of height, width and channels in ``shape``."""
        if self.names is None:
            first = len(shape) == 3 and shape[2] not in (1, 3, 4) and shape[0] in (1, 3, 4)
            return [1, 2, 0] if first else list(range(len(shape)))
        names = self.names if isinstance(self.names, list) else []
        meant = [_AXES.get(name.lower()) if isinstance(name, str) else None for name in names]
        if sorted(axis for axis in meant if axis is not None) != list(range(len(shape))):
            raise ValueError(f"names: {self.names!r} instead of height, width, channels")
        return [meant.index(axis) for axis in range(len(shape))]


class _Rate(BaseModel):
    channels: Annotated[Whole, Field(ge=1, alias="video.channels")]
    fps: Annotated[Positive, Field(alias="video.fps")]


class Info(BaseModel):
    """The fields of ``meta/info.json`` that are read; the others don't matter and are kept."""

    model_config = ConfigDict(extra="allow")

    data_path: StrictStr
    video_path: StrictStr | None = None
    chunks_size: Annotated[Whole, Field(ge=1)]
    features: dict[str, Any]
    """Looked at one by one, by ``feature`` and ``camera``."""
    codebase_version: Annotated[str, BeforeValidator(lambda version: "" if version is None else str(version))] = ""
    fps: Positive | None = None

    @field_validator("data_path", "video_path")
    @classmethod
    def _can_be_filled_in(cls, template: str | None) -> str | None:
        return template and checked_template(template, ("episode_chunk", "episode_index", "video_key"), "episode_index")

    def feature(self, name: str) -> Feature | None:
        """What it says about a column or camera; None when nothing. Raises ``ValueError`` when that can't be meant."""
        if name not in self.features:
            return None
        try:
            return Feature.model_validate(self.features[name])
        except ValidationError as error:
            raise ValueError(first_problem(error)) from error

    def cameras(self) -> list[str]:
        """The features that are videos or images."""
        kinds = {name: feature.get("dtype") for name, feature in self.features.items() if isinstance(feature, dict)}
        return [name for name, kind in kinds.items() if kind in ("video", "image")]

    def camera(self, feature: str) -> Camera:
        """What it says about a camera's frames. Raises ``ValueError`` when it says too little."""
        found = self.feature(feature)
        if found is None:
            raise ValueError(f"{feature}: missing")
        return found.camera(self.fps)


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
class DatasetMeta:
    """The metadata of one dataset folder."""

    path: Path
    info: Info
    modality: Modality
    episodes: list[Episode]
    """In the order of the file, which is the order of the steps; those of length 0 are left out."""
    tasks: dict[int, str]
    empty: list[int] = field(default_factory=list)
    """Episodes that are listed with length 0."""
    no_tasks: DatasetError | None = None
    """Why there are no ``tasks``. Only what names them by number needs any."""

    @classmethod
    def load(cls, path: Path) -> DatasetMeta:
        """Read ``path/meta``. Raises ``DatasetError`` for the first file that is needed and missing or broken."""
        refuse_other_layouts(path)
        return cls.of(path, load_info(path), load_modality(path), load_episodes(path))

    @classmethod
    def of(cls, path: Path, info: Info, modality: Modality, episodes: list[Episode]) -> DatasetMeta:
        """From what was read already; ``episodes`` as they are listed."""
        tasks, no_tasks = {}, None
        try:
            tasks = load_tasks(path)
        except DatasetError as error:
            no_tasks = error
        empty = [episode.episode_index for episode in episodes if episode.length == 0]
        return cls(path, info, modality, [each for each in episodes if each.length], tasks, empty, no_tasks)

    def parquet_path(self, episode: int) -> Path:
        """The table of an episode."""
        return self._filled("data_path", self.info.data_path, episode, "")

    def video_path(self, key: str, episode: int) -> Path:
        """The video of camera ``key`` (a name of ``modality.json``, without ``video.``) in an episode."""
        if self.info.video_path is None:
            raise DatasetError(
                f"{self.path / 'meta/info.json'}: no video_path, but the camera {self.modality.column('video', key)} "
                "is recorded as video.",
                "Add the video_path that LeRobot writes: "
                "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
            )
        return self._filled("video_path", self.info.video_path, episode, self.modality.column("video", key))

    def _filled(self, name: str, template: str, episode: int, video_key: str) -> Path:
        chunk = episode // self.info.chunks_size
        try:
            return self.path / filled(template, episode_chunk=chunk, episode_index=episode, video_key=video_key)
        except ValueError as error:
            raise DatasetError(
                f"{self.path / 'meta/info.json'}: {name}: {error}.", "Keep the files of a dataset in its folder."
            ) from None

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


def refuse_other_layouts(path: Path) -> None:
    """Raise ``DatasetError`` when ``path`` is no dataset folder, or one of a layout this reader does not know."""
    if not (path / "meta").is_dir():
        raise DatasetError(
            f"{path}: not a LeRobot dataset, it has no meta folder.",
            "Point at the folder that holds meta/, data/ and videos/.",
        )
    episodes = path / "meta/episodes"
    if episodes.is_dir() and not (path / "meta/episodes.jsonl").exists():
        raise DatasetError(f"{episodes}: a LeRobot v3 layout; GR00T N1.5 reads v2.0 and v2.1.", CONVERT_V3)


def load_info(path: Path) -> Info:
    """Read ``meta/info.json`` of the dataset at ``path``. Raises ``DatasetError``."""
    file = path / "meta/info.json"
    info = read_document(file, Info, "It comes with every LeRobot dataset: download the dataset again.")
    if info.codebase_version.startswith("v3"):
        raise DatasetError(
            f"{file}: codebase_version {info.codebase_version}; GR00T N1.5 reads v2.0 and v2.1.", CONVERT_V3
        )
    return info


def load_modality(path: Path) -> Modality:
    """Read ``meta/modality.json`` of the dataset at ``path``. Raises ``DatasetError``."""
    return read_document(
        path / "meta/modality.json",
        Modality,
        "GR00T needs this file beside LeRobot's own: it names the slices of observation.state and action, the cameras "
        "and the annotations. `pippa data init PATH` proposes it.",
    )


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


def _twice(values: Any) -> list[int]:
    return sorted(value for value, count in Counter(values).items() if count > 1)
