"""Checks the files of ``meta/`` and whether they fit the data config."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from trainer.data.checks.problem import Problem
from trainer.data.configs import DATA_CONFIGS, DataConfig
from trainer.data.dataset_meta import (
    DatasetMeta,
    Modality,
    load_episodes,
    load_info,
    load_modality,
    load_tasks,
    read_text,
    refuse_other_layouts,
)
from trainer.data.metadata import DatasetMetadata, DatasetStatistics, StateActionMetadata, describe_modalities
from trainer.data.statistics import Statistics, needed_columns
from trainer.data.transforms.state_action import StateActionTransform
from trainer.errors import PippaError

T = TypeVar("T")


def check_metadata(path: Path, config: DataConfig) -> tuple[DatasetMeta | None, list[Problem]]:
    """The metadata, when enough of it is readable to go on to the tables and videos, and what is wrong with it."""
    problems: list[Problem] = []

    def attempt(load: Callable[[Path], T]) -> T | None:
        try:
            return load(path)
        except PippaError as error:
            problems.append(Problem.of(error))
            return None

    attempt(refuse_other_layouts)
    if problems:
        return None, problems
    info, modality = attempt(load_info), attempt(load_modality)
    episodes, tasks = attempt(load_episodes), attempt(load_tasks)
    if modality is not None:
        problems += _check_keys(modality, config)
    if info is None or modality is None or episodes is None:
        return None, problems
    meta = DatasetMeta(path, info, modality, episodes, tasks or {})
    problems += _check_columns(meta)
    problems += _check_cameras(meta, config)
    problems += _check_statistics(meta)
    if not problems:
        problems += _check_processing(meta, config)
    return meta, problems


def _check_keys(modality: Modality, config: DataConfig) -> Iterator[Problem]:
    """What the data config expects and the dataset lacks; where another data config fits, that is one problem."""
    fitting = [name for name, other in DATA_CONFIGS.items() if not other.missing(modality)]
    for kind, keys in config.missing(modality).items():
        expected = ", ".join(f"{kind}.{key}" for key in keys)
        message = f"{config.name} expects {expected}; this dataset has {', '.join(modality.keys(kind)) or 'none'}"
        if fitting:
            yield Problem(message, f"use {' or '.join(fitting)}")
            return
        yield Problem(
            message,
            f"No built-in data config fits: give meta/modality.json the names {config.name} expects, or declare a "
            "data config of your own (--data-config module.path:NAME).",
        )


def _check_columns(meta: DatasetMeta) -> Iterator[Problem]:
    """Slices of modality.json against the widths that info.json announces."""
    for modality in ("state", "action"):
        for key, entry in getattr(meta.modality, modality).items():
            column = meta.modality.column(modality, key)
            shape = meta.info.features.get(column, {}).get("shape")
            width = math.prod(shape) if shape else None
            if width is not None and entry.end > width:
                yield Problem(
                    f"{meta.path / 'meta/modality.json'}: {modality}.{key} is {entry.start} to {entry.end}, but "
                    f"{column} has {width} dimensions (meta/info.json)",
                    "Correct start and end.",
                )


def _check_cameras(meta: DatasetMeta, config: DataConfig) -> Iterator[Problem]:
    file = meta.path / "meta/info.json"
    resolutions = {}
    for key in meta.modality.video:
        feature = meta.modality.column("video", key)
        if feature not in meta.info.features:
            cameras = [name for name, described in meta.info.features.items() if described.get("dtype") == "video"]
            yield Problem(
                f"{file}: no feature {feature!r}, which video.{key} of meta/modality.json names; "
                f"its cameras are {', '.join(cameras) or 'none'}",
                f"Correct original_key of video.{key}.",
            )
            continue
        try:
            camera = meta.info.camera(feature)
        except (KeyError, ValueError, IndexError, TypeError) as error:
            yield Problem(
                f"{file}: the camera {feature!r} is not described: {error} is missing or wrong",
                'Its entry in features needs shape, names ("height", "width", "channel") and video.fps.',
            )
            continue
        if camera.channels != 3:
            yield Problem(f"{file}: {feature!r} has {camera.channels} channels", "GR00T takes colour images.")
        if key in config.video:
            resolutions[key] = camera.resolution
    if len(set(resolutions.values())) > 1:
        sizes = ", ".join(f"video.{key} {width}x{height}" for key, (width, height) in resolutions.items())
        yield Problem(f"{file}: cameras of different resolution: {sizes}", "Re-encode them at one resolution.")


def _check_statistics(meta: DatasetMeta) -> Iterator[Problem]:
    """An absent or incomplete stats.json is computed; one that is broken or holds NaN would poison training."""
    file = meta.path / "meta/stats.json"
    if not file.exists():
        return
    remove = "Delete it: it is computed from the data when it is missing."
    try:
        document = json.loads(read_text(file))
    except PippaError as error:
        yield Problem(error.message.rstrip("."), error.hint or remove)
        return
    except json.JSONDecodeError as error:
        yield Problem(f"{file}: not JSON ({error})", remove)
        return
    for column, width in needed_columns(meta).items():
        described: Any = document.get(column) if isinstance(document, dict) else None
        for name, values in described.items() if isinstance(described, dict) else ():
            if name not in Statistics.model_fields or not isinstance(values, list):
                continue
            if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
                yield Problem(f"{file}: NaN or infinite values in {name} of {column}", remove)
            elif len(values) < width:
                yield Problem(f"{file}: {name} of {column} has {len(values)} dimensions of {width}", remove)


def _check_processing(meta: DatasetMeta, config: DataConfig) -> Iterator[Problem]:
    """Widths and rotations: whether the data config's processing can be applied to what the keys are."""
    try:
        modalities = describe_modalities(meta)
        metadata = DatasetMetadata(
            statistics=DatasetStatistics(state=_zeros(modalities.state), action=_zeros(modalities.action)),
            modalities=modalities,
            embodiment_tag="",
        )
        state = StateActionTransform("state", config.state, metadata)
        action = StateActionTransform("action", config.action, metadata)
    except PippaError as error:
        yield Problem.of(error)
        return
    for kind, width, limit in (
        ("state", state.width, config.max_state_dim),
        ("action", action.width, config.max_action_dim),
    ):
        if width > limit:
            yield Problem(
                f"The {kind} keys of {config.name} have {width} dimensions together; the model takes {limit}",
                f"Use a data config with fewer {kind} keys, or one of your own.",
            )


def _zeros(keys: dict[str, StateActionMetadata]) -> dict[str, Statistics]:
    """Placeholder statistics, of the right widths."""
    return {
        key: Statistics(**{name: [0.0] * described.shape[0] for name in Statistics.model_fields})
        for key, described in keys.items()
    }
