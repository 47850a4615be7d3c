"""``experiment_cfg/policy.json``: what a checkpoint knows of itself beyond upstream's files.

With it a folder is enough to act, to be evaluated and to be served: which data config and embodiment tag it was trained
with, which cameras and joints these meant, and on which episodes. Statistics are in the files that upstream keeps them
in: ``metadata.json`` beside it (N1.5), which has the image sizes too, or ``statistics.json`` beside the weights (N1.7).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

from pydantic import BaseModel, ConfigDict, ValidationError, field_serializer

from trainer.config.data_options import VideoAlignment
from trainer.data.config_file import to_document
from trainer.data.configs import DATA_CONFIGS
from trainer.data.data_config import DataConfig
from trainer.data.dataset_meta import DatasetMeta
from trainer.data.joints import joint_names
from trainer.errors import UsageError
from trainer.wrong_values import first_problem

FILE = "policy.json"
LARGEST = 64 * 1024**2
"""Bytes; a million episodes have sixteen times a million."""


class PolicyConfig(BaseModel):
    """What a checkpoint was trained as. Fields that are added later are optional."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: Literal[1] = 1
    data_config: DataConfig
    embodiment_tag: str
    action_horizon: int
    denoising_steps: int
    video_alignment: VideoAlignment = "timestamp"
    cameras: dict[str, str] = {}
    """Camera of the data config to the dataset's own name for it."""
    image_sizes: dict[str, tuple[int, int]] = {}
    """Width and height of each camera's images, where no ``metadata.json`` says them."""
    joints: dict[str, list[str]] = {}
    """``state.<key>`` and ``action.<key>`` to the names of their dimensions, where the dataset has some."""
    held_out: list[str] = []
    """Hashes of the episodes that were kept out of the training (``trainer.data.holdout``)."""
    trained_on: list[str] = []
    """Hashes of those that it was trained on."""
    exclude_episodes: list[str] = []
    """What was left out of training, statistics and holdout, as ``--exclude-episodes`` has it."""

    @field_serializer("data_config")
    def _as_data(self, value: DataConfig) -> dict[str, object]:
        return to_document(value)


def sources(meta: DatasetMeta, config: DataConfig) -> tuple[dict[str, str], dict[str, list[str]]]:
    """What the cameras and the joints of ``config`` are called in a dataset."""
    cameras = {key: meta.modality.column("video", key) for key in config.video}
    joints = {
        f"{kind}.{key}": joint_names(meta, kind, key) for kind in ("state", "action") for key in config.keys(kind)
    }
    return cameras, {name: names for name, names in joints.items() if names}


def write_policy_config(folder: Path, config: PolicyConfig) -> Path:
    """Write ``folder/policy.json``. Atomic."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{FILE}.{os.getpid()}"
    temporary.write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return temporary.replace(folder / FILE)


def read_policy_config(checkpoint: Path) -> PolicyConfig | None:
    """What the checkpoint in this folder says of itself; None for one of Isaac-GR00T or of an older pippa.

    Raises ``UsageError`` for a file that is damaged.
    """
    file = checkpoint / "experiment_cfg" / FILE
    if not file.is_file():
        return None
    try:
        if file.stat().st_size > LARGEST:
            raise UsageError(f"{file}: larger than {LARGEST // 1024**2} MiB.", "Pull the checkpoint again.")
        return PolicyConfig.model_validate(json.loads(file.read_text(encoding="utf-8")))
    except ValidationError as error:
        problem = first_problem(error, PolicyConfig)
        raise UsageError(f"{file}: {problem}.", "Pull the checkpoint again.") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file}: not readable ({str(error)[:300]}).", "Pull the checkpoint again.") from error


def recorded_data_config(config: str | DataConfig, checkpoint: str) -> DataConfig:
    """The data config in the lineage of a registered ``checkpoint``. Raises ``UsageError`` for one that is a program:
    who wrote into the store does not decide what runs here.
    """
    if isinstance(config, str) and config not in DATA_CONFIGS:
        raise UsageError(
            f"{checkpoint} was trained with the data config {config}, a Python module, which is not run from a store.",
            f"Pull it, and where the module is: `trainer evaluate --model-path FOLDER --dataset-path FOLDER "
            f"--data-config {config}`.",
        )
    return DATA_CONFIGS[config] if isinstance(config, str) else config


def agreed_data_config(known: DataConfig | None, given: DataConfig | None, checkpoint: str) -> DataConfig:
    """The data config of a checkpoint: what it knows, or else what was given. Raises ``UsageError`` where they differ,
    or there is none.
    """
    if known is None and given is None:
        raise UsageError(
            f"{checkpoint} does not say which data config it was trained with: it comes from Isaac-GR00T or an earlier "
            "pippa.",
            "Name it: --data-config (in Python, data_config=…).",
        )
    if known is None or given is None or replace(given, name=known.name) == known:
        return known or cast("DataConfig", given)
    raise UsageError(
        f"{checkpoint} was trained with the data config {known}, not with {given}: "
        f"{'; '.join(differences(known, given))}.",
        "Leave the data config out: the checkpoint knows it.",
    )


def agreed_tag(known: str | None, given: str | None, checkpoint: str, tags: Mapping[str, object]) -> str:
    """The embodiment tag of a checkpoint: what it knows, what was given, or else the only one it has statistics of."""
    if known and given and known != given:
        raise UsageError(
            f"{checkpoint} was trained with the embodiment tag {known}, not {given}.",
            "Leave the tag out: the checkpoint knows it.",
        )
    if tag := known or given:
        return tag
    if len(tags) == 1:
        return next(iter(tags))
    raise UsageError(
        f"{checkpoint} does not say which embodiment tag it was trained with; it has statistics of "
        f"{', '.join(tags) or 'none'}.",
        "Name it: --embodiment-tag (in Python, embodiment_tag=…).",
    )


def differences(trained: DataConfig, given: DataConfig) -> list[str]:
    """In what two data configs differ, for people."""
    ours, theirs = to_document(trained), to_document(given)
    found = []
    for name in dict.fromkeys([*ours, *theirs]):
        if name == "name" or ours.get(name) == theirs.get(name):
            continue
        if name in ("state", "action", "video") and trained.keys(name) != given.keys(name):
            found.append(f"{name} {', '.join(trained.keys(name))}, not {', '.join(given.keys(name))}")
        elif name in ("state", "action"):
            found.append(f"{name}: other processing of the same keys")
        else:
            found.append(f"{name} {getattr(trained, name)}, not {getattr(given, name)}")
    return found
