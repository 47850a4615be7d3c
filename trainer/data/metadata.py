"""``experiment_cfg/metadata.json``: what a checkpoint must know about the data it was trained on.

The document is upstream's ``DatasetMetadata`` (``gr00t/data/schema.py``), one entry per embodiment tag, so that
upstream's ``Gr00tPolicy`` reads our checkpoints and ours reads upstream's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from trainer.data.configs import DataConfig
from trainer.data.dataset_meta import Camera, DatasetMeta, RotationType
from trainer.data.statistics import Statistics, load_statistics, needed_columns, read_statistics, usable
from trainer.errors import DatasetError, UsageError
from trainer.wrong_values import first_problem


class StateActionMetadata(BaseModel):
    """What a state or action key is."""

    absolute: bool
    rotation_type: RotationType | None
    shape: tuple[int]
    continuous: bool


class Modalities(BaseModel):
    """Every key of ``modality.json``, without prefix."""

    video: dict[str, Camera]
    state: dict[str, StateActionMetadata]
    action: dict[str, StateActionMetadata]


class DatasetStatistics(BaseModel):
    """Statistics of every state and action key."""

    state: dict[str, Statistics]
    action: dict[str, Statistics]


class DatasetMetadata(BaseModel):
    """One entry of ``experiment_cfg/metadata.json``. Fields of the official model's file we don't know are ignored."""

    model_config = ConfigDict(extra="ignore")

    statistics: DatasetStatistics
    modalities: Modalities
    embodiment_tag: str


def build_metadata(
    meta: DatasetMeta,
    embodiment_tag: str,
    config: DataConfig | None = None,
    statistics: Mapping[str, Statistics] | None = None,
) -> DatasetMetadata:
    """Describe a dataset, all entries of its ``modality.json`` included. Raises ``DatasetError``.

    With ``config``, entries that it doesn't use are left out where they can't be described. ``statistics`` are those of
    the columns, where they are known already.
    """
    columns = dict(statistics) if statistics is not None else load_statistics(meta, config)
    if config is not None:
        others = {column: width for column, width in needed_columns(meta).items() if column not in columns}
        with suppress(DatasetError):
            columns |= usable(read_statistics(meta), others)
    modalities = describe_modalities(meta, config)
    described: dict[str, dict[str, Statistics]] = {"state": {}, "action": {}}
    for modality, keys in described.items():
        for key in list(getattr(modalities, modality)):
            entry, name = getattr(meta.modality, modality)[key], meta.modality.column(modality, key)
            if name in columns and len(columns[name].mean) >= entry.end:
                keys[key] = columns[name].slice(entry.start, entry.end)
            elif config is None or key in config.keys(modality):
                raise DatasetError(
                    f"{meta.path / 'meta/modality.json'}: {modality}.{key} ends at {entry.end}, but its column "
                    f"{name!r} has {len(columns[name].mean)} dimensions.",
                    "Correct start and end.",
                )
            else:
                getattr(modalities, modality).pop(key)
    return DatasetMetadata(
        statistics=DatasetStatistics(**described), modalities=modalities, embodiment_tag=embodiment_tag
    )


def describe_modalities(meta: DatasetMeta, config: DataConfig | None = None) -> Modalities:
    """What every entry of ``modality.json`` is. Raises ``DatasetError`` for a camera ``info.json`` lacks.

    With ``config``, one that it doesn't use is left out instead.
    """
    described = {
        modality: {
            key: StateActionMetadata(
                absolute=entry.absolute,
                rotation_type=entry.rotation_type,
                shape=(entry.width,),
                continuous=is_continuous(meta, modality, key),
            )
            for key, entry in getattr(meta.modality, modality).items()
        }
        for modality in ("state", "action")
    }
    cameras = {}
    for key in meta.modality.video:
        try:
            cameras[key] = meta.camera(key)
        except DatasetError:
            if config is None or key in config.video:
                raise
    return Modalities(video=cameras, **described)


def is_continuous(meta: DatasetMeta, modality: str, key: str) -> bool:
    """False for integer and boolean keys, which only binary normalisation suits.

    By the ``dtype`` of the key in ``modality.json``, and where that names none, of its column in ``info.json``.
    """
    names = [getattr(meta.modality, modality)[key].dtype]
    with suppress(ValueError):
        feature = meta.info.feature(meta.modality.column(modality, key))
        names += [feature.dtype] if feature else []
    kinds = (as_number_type(name) for name in names)
    return next((np.issubdtype(kind, np.floating) for kind in kinds if kind is not None), True)


def as_number_type(name: Any) -> np.dtype | None:
    """The type of numbers that ``name`` names; None when it is something else, such as "list"."""
    try:
        kind = np.dtype(name) if isinstance(name, str) else None
    except TypeError:
        return None
    return kind if kind is not None and (np.issubdtype(kind, np.number) or kind == np.bool_) else None


def merge_metadata(
    parts: Sequence[DatasetMetadata], weights: Sequence[float], config: DataConfig | None = None
) -> DatasetMetadata:
    """Metadata of a mixture: means, variances and quantiles by sampling ``weights``, extremes over all parts.

    With ``config`` of the keys that it uses: in others the parts may differ.
    Upstream: ``LeRobotMixtureDataset.merge_metadata`` with ``percentile_mixing_method="weighted_average"``.
    Raises ``DatasetError`` when the parts' modalities differ.
    """
    if config is not None:
        parts = [_only(part, config) for part in parts]
    if any(part.modalities != parts[0].modalities for part in parts[1:]):
        raise DatasetError(
            "The datasets of the mixture differ in their cameras, state keys or action keys.",
            "Give them the same meta/modality.json, camera resolution and frame rate, or train on one at a time.",
        )
    shares = np.asarray(weights, dtype=np.float64) / np.sum(weights)
    merged = {
        modality: {
            key: _merge([getattr(part.statistics, modality)[key] for part in parts], shares)
            for key in getattr(parts[0].statistics, modality)
        }
        for modality in ("state", "action")
    }
    return parts[0].model_copy(update={"statistics": DatasetStatistics(**merged)})


def _only(part: DatasetMetadata, config: DataConfig) -> DatasetMetadata:
    """``part`` without the keys that ``config`` doesn't use."""

    def chosen(described: Any, modality: str) -> dict[str, Any]:
        return {key: getattr(described, modality)[key] for key in config.keys(modality)}

    return part.model_copy(
        update={
            "modalities": Modalities(**{name: chosen(part.modalities, name) for name in ("video", "state", "action")}),
            "statistics": DatasetStatistics(**{name: chosen(part.statistics, name) for name in ("state", "action")}),
        }
    )


def _merge(parts: Sequence[Statistics], shares: np.ndarray) -> Statistics:
    def weighted(values: list[np.ndarray]) -> np.ndarray:
        return np.average(values, axis=0, weights=shares)

    means = [np.array(part.mean) for part in parts]
    mean = weighted(means)
    squares = weighted([np.array(part.std) ** 2 + own**2 for part, own in zip(parts, means, strict=True)])
    # Rounding can leave a constant dimension with a variance just below zero.
    std = np.sqrt(np.maximum(squares - mean**2, 0.0))
    return Statistics(
        max=np.max([part.max for part in parts], axis=0).tolist(),
        min=np.min([part.min for part in parts], axis=0).tolist(),
        mean=mean.tolist(),
        std=std.tolist(),
        q01=weighted([np.array(part.q01) for part in parts]).tolist(),
        q99=weighted([np.array(part.q99) for part in parts]).tolist(),
    )


def write_metadata(folder: Path, metadata: DatasetMetadata) -> Path:
    """Put ``metadata`` under its tag into ``folder/metadata.json``, keeping other tags. Atomic."""
    file = folder / "metadata.json"
    folder.mkdir(parents=True, exist_ok=True)
    document = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    document[metadata.embodiment_tag] = metadata.model_dump(mode="json")
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_text(json.dumps(document, indent=4), encoding="utf-8")
    temporary.replace(file)
    return file


def read_metadata(folder: Path, embodiment_tag: str) -> DatasetMetadata:
    """The entry of ``embodiment_tag`` in ``folder/metadata.json``. Raises ``UsageError`` when there is none."""
    file = folder / "metadata.json"
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        if embodiment_tag not in document:
            raise UsageError(
                f"{file} knows the embodiment tag {', '.join(document) or 'of no dataset'}, not {embodiment_tag}.",
                "Name the tag the checkpoint was trained with (--embodiment-tag).",
            )
        return DatasetMetadata.model_validate(document[embodiment_tag])
    except FileNotFoundError:
        raise UsageError(
            f"{file}: missing.", "A checkpoint is a folder with experiment_cfg/ beside its weights."
        ) from None
    except ValidationError as error:
        problem = first_problem(error, DatasetMetadata)
        raise UsageError(f"{file}: {embodiment_tag}.{problem}.", "Pull the checkpoint again.") from error
    except json.JSONDecodeError as error:
        raise UsageError(f"{file}: not JSON ({error}).", "Pull the checkpoint again.") from error
