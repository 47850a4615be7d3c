"""The files of a dataset's ``meta/`` folder, read and validated (LeRobot v2.0/v2.1 plus GR00T's ``modality.json``).

Upstream: ``gr00t/data/schema.py``, ``gr00t/data/dataset.py`` and ``getting_started/LeRobot_compatible_data_schema.md``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

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

Document = TypeVar("Document", bound=BaseModel)

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
CONVERT_V3 = (
    "`pippa data push PATH --name NAME` converts it to v2.1 on its way into the store, where trainings read "
    "it; `pippa data pull NAME FOLDER` gives you the converted files."
)


class StateActionEntry(BaseModel):
    """Where one state or action key lies: columns ``start`` to ``end`` (half-open) of a vector column."""

    start: int = Field(ge=0)
    end: int = Field(ge=1)
    original_key: str | None = None
    rotation_type: RotationType | None = None
    absolute: bool = True
    dtype: str = "float64"

    @model_validator(mode="after")
    def _ordered(self) -> StateActionEntry:
        if self.end <= self.start:
            raise ValueError(f"end ({self.end}) must be greater than start ({self.start})")
        return self

    @property
    def width(self) -> int:
        """Number of dimensions."""
        return self.end - self.start

    @property
    def continuous(self) -> bool:
        """False for integer and boolean keys, which only binary normalisation suits."""
        import numpy as np  # data configs are read where no numpy is: in the flows image

        return np.issubdtype(np.dtype(self.dtype), np.floating)


class SourceEntry(BaseModel):
    """A camera or an annotation and the dataset's own name for it."""

    original_key: str | None = None


class Modality(BaseModel):
    """``meta/modality.json``: GR00T's names for parts of the dataset's columns and for its cameras."""

    state: dict[str, StateActionEntry]
    action: dict[str, StateActionEntry]
    video: dict[str, SourceEntry]
    annotation: dict[str, SourceEntry] = {}

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


class Info(BaseModel):
    """The fields of ``meta/info.json`` that are read; the others don't matter and are kept."""

    model_config = ConfigDict(extra="allow")

    data_path: str
    video_path: str | None = None
    chunks_size: int = Field(ge=1)
    features: dict[str, dict[str, Any]]
    codebase_version: str = ""
    fps: float | None = None

    @field_validator("data_path", "video_path")
    @classmethod
    def _can_be_filled_in(cls, template: str | None) -> str | None:
        try:
            (template or "").format(episode_chunk=0, episode_index=0, video_key="camera")
        except (KeyError, ValueError, IndexError, AttributeError) as error:
            raise ValueError(
                f"{template!r} can't be filled in ({error}); v2 datasets use episode_chunk, episode_index and video_key"
            ) from error
        return template

    def camera(self, feature: str) -> Camera:
        """What the feature says about its frames. Raises ``KeyError`` or ``ValueError`` when it says too little.

        v2.0 keeps the rate in ``video_info`` and names the last axis ``channel``, v2.1 in ``info`` and ``channels``.
        Without ``names`` (older recordings) the axes are taken as height, width, channels.
        """
        described = self.features[feature]
        shape = [int(size) for size in described["shape"]]
        axes = [str(name).removesuffix("s") for name in described.get("names") or ("height", "width", "channel")]
        details = {**(described.get("info") or {}), **(described.get("video_info") or {})}
        fps = details.get("video.fps", self.fps)
        if fps is None:
            raise KeyError("video.fps")
        return Camera(
            resolution=(shape[axes.index("width")], shape[axes.index("height")]),
            channels=shape[axes.index("channel")] if "channel" in axes else int(details["video.channels"]),
            fps=float(fps),
        )


class Episode(BaseModel):
    """One line of ``meta/episodes.jsonl``."""

    episode_index: int = Field(ge=0)
    length: int = Field(ge=1)


class Task(BaseModel):
    """One line of ``meta/tasks.jsonl``."""

    task_index: int
    task: str


@dataclass(frozen=True)
class DatasetMeta:
    """The metadata of one dataset folder."""

    path: Path
    info: Info
    modality: Modality
    episodes: list[Episode]
    """In the order of the file, which is the order of the steps."""
    tasks: dict[int, str]

    @classmethod
    def load(cls, path: Path) -> DatasetMeta:
        """Read ``path/meta``. Raises ``DatasetError`` for the first file that is missing or broken."""
        refuse_other_layouts(path)
        return cls(path, load_info(path), load_modality(path), load_episodes(path), load_tasks(path))

    def parquet_path(self, episode: int) -> Path:
        """The table of an episode."""
        chunk = episode // self.info.chunks_size
        return self.path / self.info.data_path.format(episode_chunk=chunk, episode_index=episode)

    def video_path(self, key: str, episode: int) -> Path:
        """The video of camera ``key`` (a name of ``modality.json``, without ``video.``) in an episode."""
        if self.info.video_path is None:
            raise DatasetError(f"{self.path / 'meta/info.json'}: no video_path.", "GR00T needs at least one camera.")
        return self.path / self.info.video_path.format(
            episode_chunk=episode // self.info.chunks_size,
            episode_index=episode,
            video_key=self.modality.column("video", key),
        )

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
    info = _document(path / "meta/info.json", Info, "It comes with every LeRobot dataset: download the dataset again.")
    if info.codebase_version.startswith("v3"):
        raise DatasetError(
            f"{path / 'meta/info.json'}: codebase_version {info.codebase_version}; GR00T N1.5 reads v2.0 and v2.1.",
            CONVERT_V3,
        )
    return info


def load_modality(path: Path) -> Modality:
    """Read ``meta/modality.json`` of the dataset at ``path``. Raises ``DatasetError``."""
    return _document(
        path / "meta/modality.json",
        Modality,
        "GR00T needs this file beside LeRobot's own: it names the slices of observation.state and action, the cameras "
        "and the annotations. For an SO-100 or SO-101 copy Isaac-GR00T's examples/SO-100/so100_dualcam__modality.json.",
    )


def load_episodes(path: Path) -> list[Episode]:
    """Read ``meta/episodes.jsonl`` of the dataset at ``path``. Raises ``DatasetError``."""
    file = path / "meta/episodes.jsonl"
    episodes = list(_lines(file, Episode))
    indices = [episode.episode_index for episode in episodes]
    if not episodes:
        raise DatasetError(f"{file}: no episodes.", "Record some, or download the dataset again.")
    if len(set(indices)) != len(indices):
        twice = sorted({index for index in indices if indices.count(index) > 1})
        raise DatasetError(f"{file}: episode_index {twice[0]} occurs twice.", "Keep one line per episode.")
    return episodes


def load_tasks(path: Path) -> dict[int, str]:
    """Read ``meta/tasks.jsonl`` of the dataset at ``path``: task index to instruction. Raises ``DatasetError``."""
    return {task.task_index: task.task for task in _lines(path / "meta/tasks.jsonl", Task)}


def is_lfs_pointer(file: Path) -> bool:
    """Whether ``file`` is git-lfs's placeholder instead of the data."""
    with file.open("rb") as stream:
        return stream.read(len(LFS_POINTER)) == LFS_POINTER


def read_text(file: Path, missing: str = "Download the dataset again.") -> str:
    """The text of a metadata file. Raises ``DatasetError`` when it is absent, unreadable or a git-lfs pointer."""
    try:
        if is_lfs_pointer(file):
            raise DatasetError(f"{file}: a git-lfs pointer, not the data.", "Run `git lfs pull` in the dataset.")
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DatasetError(f"{file}: missing.", missing) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file}: can't be read ({error}).", "Download the dataset again.") from error


def _document(file: Path, model: type[Document], missing: str) -> Document:
    text = read_text(file, missing)
    try:
        return model.model_validate(json.loads(text))
    except json.JSONDecodeError as error:
        raise DatasetError(f"{file}: not JSON ({error}).", "Correct that line, or download the file again.") from error
    except ValidationError as error:
        raise DatasetError(f"{file}: {_first(error)}.", "Correct that entry.") from error


def _lines(file: Path, model: type[Document]) -> Iterator[Document]:
    """The lines of a JSON-lines file; blank ones, which editors leave behind, are skipped."""
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            yield model.model_validate(json.loads(line))
        except json.JSONDecodeError as error:
            raise DatasetError(
                f"{file}, line {number}: not JSON ({error.msg}): {line[:80]!r}.",
                "Correct or remove that line; one JSON object per line.",
            ) from error
        except ValidationError as error:
            raise DatasetError(f"{file}, line {number}: {_first(error)}.", "Correct that line.") from error


def _first(error: ValidationError) -> str:
    details = error.errors()[0]
    where = ".".join(str(part) for part in details["loc"])
    return f"{where}: {details['msg']}" if where else details["msg"]
