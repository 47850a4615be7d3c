"""Checks the files of ``meta/``: whether they fit the data config, one another, and the files beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from trainer.config.data_options import DataOptions
from trainer.data.checks.listing import check_listing
from trainer.data.configs import DataConfig
from trainer.data.dataset_meta import (
    DatasetMeta,
    Modality,
    list_episodes,
    load_info,
    load_modality,
    require_dataset,
)
from trainer.data.metadata import (
    DatasetMetadata,
    DatasetStatistics,
    StateActionMetadata,
    as_number_type,
    describe_modalities,
)
from trainer.data.problem import Problem
from trainer.data.rules import rules_of
from trainer.data.statistics import REMOVE, Statistics, needed_columns, normalised_dimensions, read_statistics
from trainer.data.transforms.state_action import StateActionTransform
from trainer.errors import DatasetError, PippaError

T = TypeVar("T")
_LARGEST = 1e300


def check_metadata(
    path: Path,
    config: DataConfig,
    options: DataOptions = DataOptions(),  # noqa: B008 - frozen
) -> tuple[DatasetMeta | None, list[Problem], list[Problem]]:
    """The metadata, when enough of it is good to check the tables and videos; what is wrong, what is odd."""
    problems: list[Problem] = []

    def attempt(load: Callable[[Path], T]) -> T | None:
        try:
            return load(path)
        except PippaError as error:
            problems.append(Problem.of(error))
            return None

    attempt(require_dataset)
    if problems:
        return None, problems, []
    info, modality = attempt(load_info), attempt(load_modality)
    episodes = attempt(lambda folder: list_episodes(folder, info))
    rules = rules_of(options.generation)
    misfits = [] if modality is None else list(_check_keys(path, modality, config, rules.built_in()))
    problems += misfits
    if info is None or modality is None or episodes is None or misfits:
        return None, problems, []
    meta = DatasetMeta.of(path, info, modality, episodes)
    problems += _check_columns(meta, config)
    problems += _check_cameras(meta, config, alike=rules.cameras_alike)
    if not options.recompute_statistics:
        problems += _check_statistics(meta, config)
    if not problems:
        problems += _check_processing(meta, config)
    return meta, problems, [*_odd_entries(meta, config), *check_listing(meta)]


def _check_keys(
    path: Path, modality: Modality, config: DataConfig, known: Mapping[str, DataConfig]
) -> Iterator[Problem]:
    """What the data config expects and the dataset lacks; where another of the ``known`` ones fits, that is one
    problem.
    """
    missing = config.missing(modality)
    for kind, keys in missing.items():
        for key in [key for key in keys if f"{kind}.{key}" in modality.unusable]:
            what = modality.unusable[f"{kind}.{key}"]
            yield Problem(f"{path / 'meta/modality.json'}: {kind}.{key}: {what}", "Correct that entry.")
            keys.remove(key)
    fitting = [name for name, other in known.items() if not other.missing(modality)]
    for kind, keys in missing.items():
        if not keys:
            continue
        expected = ", ".join(f"{kind}.{key}" for key in keys)
        message = f"{config.name} expects {expected}; this dataset has {', '.join(modality.keys(kind)) or 'none'}"
        if fitting:
            yield Problem(message, f"use {' or '.join(fitting)}")
            return
        yield Problem(
            message,
            f"No built-in data config fits: give meta/modality.json the names {config.name} expects, or take a "
            "data config of your own, which `pippa data init PATH` proposes.",
        )


def _check_columns(meta: DatasetMeta, config: DataConfig) -> Iterator[Problem]:
    """Slices of modality.json against the widths that info.json announces."""
    for modality in ("state", "action"):
        for key in config.keys(modality):
            entry, column = getattr(meta.modality, modality)[key], meta.modality.column(modality, key)
            try:
                feature = meta.info.feature(column)
            except ValueError as error:
                yield Problem(
                    f"{meta.path / 'meta/info.json'}: features.{column}.{error}",
                    "Correct that entry: shape is a list of whole numbers.",
                )
                continue
            width = feature.width if feature else None
            if width is not None and entry.end > width:
                yield Problem(
                    f"{meta.path / 'meta/modality.json'}: {modality}.{key} is {entry.start} to {entry.end}, but "
                    f"{column} has {width} dimensions (meta/info.json)",
                    "Correct start and end.",
                )


def _check_cameras(meta: DatasetMeta, config: DataConfig, *, alike: bool) -> Iterator[Problem]:
    """Whether each camera can be used, and where the model needs them ``alike``, whether they have one resolution."""
    file = meta.path / "meta/info.json"
    resolutions = {}
    for key in config.video:
        try:
            camera = meta.camera(key)
        except DatasetError as error:
            yield Problem.of(error)
            continue
        if camera.channels not in (1, 3):
            feature = meta.modality.column("video", key)
            yield Problem(f"{file}: {feature!r} has {camera.channels} channels", "GR00T takes colour images.")
        if not meta.in_tables(key) and meta.info.video_path is None:
            try:
                meta.video_path(key, meta.episodes[0].episode_index)
            except DatasetError as error:
                yield Problem.of(error)
        resolutions[key] = camera.resolution
    if alike and len(set(resolutions.values())) > 1:
        sizes = ", ".join(f"video.{key} {width}x{height}" for key, (width, height) in resolutions.items())
        yield Problem(f"{file}: cameras of different resolution: {sizes}", "Re-encode them at one resolution.")


def _check_statistics(meta: DatasetMeta, config: DataConfig) -> Iterator[Problem]:
    """An absent or incomplete stats.json is computed; one that is broken or holds NaN would poison training."""
    file = meta.path / "meta/stats.json"
    try:
        document = read_statistics(meta)
    except DatasetError as error:
        yield Problem.of(error)
        return
    for column, width in needed_columns(meta, config).items():
        used = np.flatnonzero(normalised_dimensions(meta, column, width, config)).tolist()
        described = document.get(column, {})
        if not used:
            continue
        if not isinstance(described, dict):
            yield Problem(f"{file}: {column} is no object of lists", REMOVE)
            continue
        lists = {name: described[name] for name in Statistics.model_fields if name in described}
        wrong = list(_check_lists(f"{file}: ", column, lists, used))
        yield from wrong
        if not wrong and len(lists) == len(Statistics.model_fields):
            yield from _check_order(f"{file}: ", column, lists, used)


def _check_lists(file: str, column: str, lists: dict[str, Any], used: list[int]) -> Iterator[Problem]:
    least = used[-1] + 1
    for name, values in lists.items():
        if not isinstance(values, list):
            yield Problem(f"{file}{name} of {column} is no list", REMOVE)
            continue
        if len(values) < least:
            yield Problem(f"{file}{name} of {column} has {len(values)} dimensions of {least}", REMOVE)
            continue
        needed = [values[dimension] for dimension in used]
        if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in needed):
            yield Problem(f"{file}{name} of {column} holds something that is no number", REMOVE)
        elif not all(abs(value) < _LARGEST for value in needed):  # false for NaN
            yield Problem(f"{file}NaN or infinite values in {name} of {column}", REMOVE)


def _check_order(file: str, column: str, lists: dict[str, list[float]], used: list[int]) -> Iterator[Problem]:
    """Statistics that no data can have."""
    for dimension in used:
        low, high, mean, std, q01, q99 = (
            lists[name][dimension] for name in ("min", "max", "mean", "std", "q01", "q99")
        )
        slack = 1e-4 * max(abs(low), abs(high), high - low, 1e-6)
        if not (low - slack <= q01 <= q99 + slack and q99 <= high + slack and low - slack <= mean <= high + slack):
            yield Problem(
                f"{file}the statistics of {column} contradict one another in dimension {dimension}: min {low:g}, "
                f"q01 {q01:g}, mean {mean:g}, q99 {q99:g}, max {high:g}",
                REMOVE,
            )
            return
        if std < 0:
            yield Problem(f"{file}std of {column} is {std:g} in dimension {dimension}", REMOVE)
            return


def _check_processing(meta: DatasetMeta, config: DataConfig) -> Iterator[Problem]:
    """Widths and rotations: whether the data config's processing can be applied to what the keys are."""
    try:
        modalities = describe_modalities(meta, config)
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


def _odd_entries(meta: DatasetMeta, config: DataConfig) -> Iterator[Problem]:
    """What can be trained on, and is probably not meant."""
    for key in config.video:
        name = meta.modality.column("video", key)
        try:
            feature = meta.info.feature(name)
            camera = meta.camera(key)
        except (ValueError, DatasetError):
            continue  # a problem, reported as such
        if feature and feature.is_depth_map:
            yield Problem(
                f"{meta.path / 'meta/info.json'}: {name!r}, used as the colour camera video.{key}, is marked as a "
                "depth map (is_depth_map)",
                f"If it is one, give video.{key} a colour camera: GR00T knows colours, not distances.",
            )
        elif camera.channels == 1:
            yield Problem(
                f"{meta.path / 'meta/info.json'}: {name!r}, used as the colour camera video.{key}, has one channel",
                "It is read as three equal ones, grey.",
            )
    for modality in ("state", "action"):
        for key in config.keys(modality):
            name = getattr(meta.modality, modality)[key].dtype
            if as_number_type(name) is None:
                yield Problem(
                    f"{meta.path / 'meta/modality.json'}: dtype {name!r} of {modality}.{key} is no type of numbers",
                    "The column's own type is taken; write that, or leave dtype out.",
                )
