"""``experiment_cfg/metadata.json``: what a checkpoint must know about the data it was trained on.

The document is upstream's ``DatasetMetadata`` (``gr00t/data/schema.py``), one entry per embodiment tag, so that
upstream's ``Gr00tPolicy`` reads our checkpoints and ours reads upstream's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from trainer.data.dataset_meta import Camera, DatasetMeta, RotationType
from trainer.data.statistics import Statistics, load_statistics
from trainer.errors import DatasetError, UsageError


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


def build_metadata(meta: DatasetMeta, embodiment_tag: str) -> DatasetMetadata:
    """Describe a dataset, all entries of its ``modality.json`` included. Raises ``DatasetError``."""
    columns = load_statistics(meta)
    statistics: dict[str, dict[str, Statistics]] = {"state": {}, "action": {}}
    for modality, keys in statistics.items():
        for key, entry in getattr(meta.modality, modality).items():
            name = meta.modality.column(modality, key)
            if len(columns[name].mean) < entry.end:
                raise DatasetError(
                    f"{meta.path / 'meta/modality.json'}: {modality}.{key} ends at {entry.end}, but its column "
                    f"{name!r} has {len(columns[name].mean)} dimensions.",
                    "Correct start and end.",
                )
            keys[key] = columns[name].slice(entry.start, entry.end)
    return DatasetMetadata(
        statistics=DatasetStatistics(**statistics),
        modalities=describe_modalities(meta),
        embodiment_tag=embodiment_tag,
    )


def describe_modalities(meta: DatasetMeta) -> Modalities:
    """What every entry of ``modality.json`` is. Raises ``DatasetError`` for a camera ``info.json`` lacks."""
    described = {
        modality: {
            key: StateActionMetadata(
                absolute=entry.absolute,
                rotation_type=entry.rotation_type,
                shape=(entry.width,),
                continuous=entry.continuous,
            )
            for key, entry in getattr(meta.modality, modality).items()
        }
        for modality in ("state", "action")
    }
    cameras = {}
    for key in meta.modality.video:
        feature = meta.modality.column("video", key)
        try:
            cameras[key] = meta.info.camera(feature)
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise DatasetError(
                f"{meta.path / 'meta/info.json'}: camera {feature!r} (video.{key} of modality.json) is not described: "
                f"{error} is missing or wrong.",
                "Its entry in features needs shape, names (height, width, channel) and the frame rate.",
            ) from error
    return Modalities(video=cameras, **described)


def merge_metadata(parts: Sequence[DatasetMetadata], weights: Sequence[float]) -> DatasetMetadata:
    """Metadata of a mixture: means, variances and quantiles by sampling ``weights``, extremes over all parts.

    Upstream: ``LeRobotMixtureDataset.merge_metadata`` with ``percentile_mixing_method="weighted_average"``.
    Raises ``DatasetError`` when the parts' modalities differ.
    """
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
    except (json.JSONDecodeError, ValidationError) as error:
        raise UsageError(f"{file}: not readable ({error}).", "Pull the checkpoint again.") from error
