"""``meta/info.json`` of a LeRobot dataset, v2 or v3: where its files lie, and what its columns and cameras are.

Upstream: ``lerobot/datasets/utils.py`` and ``gr00t/data/schema.py``.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictStr, ValidationError, field_validator

from trainer.data.meta_files import Count, Positive, Whole, read_json, validated
from trainer.data.paths import checked_template, filled
from trainer.errors import DatasetError
from trainer.wrong_values import first_problem

_AXES = {"height": 0, "h": 0, "width": 1, "w": 1, "channel": 2, "channels": 2, "c": 2}


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
        """What ``info.json`` has about a video."""
        return {**(self.info or {}), **(self.video_info or {})}

    @property
    def is_depth_map(self) -> bool:
        """Whether it is marked as a camera of distances instead of colours."""
        return self.details.get("video.is_depth_map") is True or self.details.get("is_depth_map") is True

    def camera(self, otherwise_fps: float | None) -> Camera:
        """What it says about its frames. Raises ``ValueError`` for what is missing or contradicts itself.

        Without ``names`` (older recordings) the axes are height, width, channels, unless only the first one can be the
        channels. Without a rate it has the dataset's, ``otherwise_fps``.
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
            detail = _Rate.model_validate({"video.channels": channels, "video.fps": fps})
        except ValidationError as error:
            raise ValueError(first_problem(error)) from error
        return Camera(resolution=(self.shape[axes[1]], self.shape[axes[0]]), channels=detail.channels, fps=detail.fps)

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

    places: ClassVar[tuple[str, ...]] = ("episode_chunk", "episode_index", "video_key")
    """What is filled into the paths; the second tells the files apart."""

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
        return template and checked_template(template, cls.places, cls.places[1])

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


class InfoV3(Info):
    """The same of a v3 dataset, whose files hold many episodes each."""

    places: ClassVar[tuple[str, ...]] = ("chunk_index", "file_index", "video_key")

    codebase_version: str
    data_path: StrictStr = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    video_path: StrictStr | None = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    chunks_size: Annotated[Whole, Field(ge=1)] = 1000
    fps: Positive  # pyrefly: ignore[bad-override-mutable-attribute] - read only

    @field_validator("features")
    @classmethod
    def _are_names_of_files(cls, features: dict[str, Any]) -> dict[str, Any]:
        """A camera's videos lie in a folder of its name, here as in v2."""
        for name in _videos(features):
            if "/" in name or name in (".", "..") or not name.isprintable():
                raise ValueError(f"{name[:200]!r} can't be the name of a camera")
        return features

    @property
    def videos(self) -> list[str]:
        """The features that are videos."""
        return _videos(self.features)


def _videos(features: dict[str, Any]) -> list[str]:
    return [name for name, about in features.items() if isinstance(about, dict) and about.get("dtype") == "video"]


def load_info(path: Path) -> Info:
    """Read ``meta/info.json`` of the dataset at ``path``: an ``InfoV3`` where it says so. Raises ``DatasetError``."""
    file = path / "meta/info.json"
    document = read_json(file, "It comes with every LeRobot dataset: download the dataset again.")
    version = document.get("codebase_version") if isinstance(document, dict) else None
    return validated(document, InfoV3 if str(version).startswith("v3") else Info, file)


def file_in(path: Path, name: str, template: str, **values: int | str) -> Path:
    """The file that ``template``, called ``name`` in ``meta/info.json``, means. Raises ``DatasetError``."""
    try:
        return path / filled(template, **values)
    except ValueError as error:
        raise DatasetError(
            f"{path / 'meta/info.json'}: {name}: {error}.", "Keep the files of a dataset in its folder."
        ) from None
