"""A checkpoint by any of its names: a folder, a name in the registry, a hub id; and what it knows of itself."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

from trainer.config.settings import pippa_home
from trainer.data.configs import DataConfig, get_data_config
from trainer.data.metadata import DatasetMetadata, read_metadata
from trainer.data.n17 import processor_files
from trainer.data.n17.embodiments import tag_of
from trainer.data.policy_config import (
    PolicyConfig,
    agreed_data_config,
    agreed_tag,
    read_policy_config,
    recorded_data_config,
)
from trainer.errors import UsageError
from trainer.gr00t.base_model import N15, N17, Generation, generation_in, resolve_folder
from trainer.store import registry
from trainer.store.local_cache import cached
from trainer.store.object_store import ObjectStore
from trainer.store.registry import CheckpointEntry
from trainer.store.stores import existing_store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on this disk, of any generation, and what it was trained as."""

    folder: Path
    generation: Generation
    data_config: DataConfig
    embodiment_tag: str
    known: PolicyConfig | None
    """Its own record; None for one of Isaac-GR00T or of an older pippa."""
    widths: Mapping[str, int]
    """``state.<key>`` and ``action.<key>`` to their dimensions."""
    image_sizes: Mapping[str, tuple[int, int]]
    """Camera to the width and height of its images in the training; empty where the checkpoint does not say."""
    metadata: DatasetMetadata | None = None
    """What N1.5 keeps of the training's data."""
    registered: str | None = None
    """RUN/STEP of one that came from the registry, where the name it was asked by may move."""


def find_checkpoint(
    name: str | PathLike[str], data_config: DataConfig | str | None = None, embodiment_tag: str | None = None
) -> Checkpoint:
    """The checkpoint that ``name`` means: a folder, a name in the registry (``RUN/STEP``, ``RUN``, an alias), which is
    then pulled into the cache of this machine, or a hub id.

    ``data_config`` and ``embodiment_tag`` are for one that does not know them. Raises ``UsageError`` where there is
    none of that name, and for a data config or tag that contradicts what it was trained with. Torch is not needed.
    """
    given = get_data_config(data_config) if isinstance(data_config, str) else data_config
    entry = None
    if not Path(name).is_dir():
        store, entry = _registered(str(name))
        folder = cached(store, entry.snapshot, pippa_home(), log.info) if store and entry else resolve_folder(name)
    else:
        folder = resolve_folder(name)
    found = described(folder, str(name), entry, given, embodiment_tag)
    return replace(found, registered=entry.name) if entry else found


def described(
    folder: Path,
    name: str,
    entry: CheckpointEntry | None = None,
    given: DataConfig | None = None,
    embodiment_tag: str | None = None,
) -> Checkpoint:
    """The checkpoint in ``folder``, which people call ``name`` and the registry ``entry``. Raises ``UsageError``."""
    known = read_policy_config(folder)
    tag = known.embodiment_tag if known else entry.spec.config.embodiment_tag if entry else None
    if _generation(folder) == N17:
        return _of_n17(folder, name, known, given, tag, embodiment_tag)
    recorded = entry.spec.config.data_config if entry else None
    config = known.data_config if known else recorded_data_config(recorded, name) if recorded else None
    config = agreed_data_config(config, given, name)
    tag = agreed_tag(tag, embodiment_tag, name, _tags(folder))
    metadata = read_metadata(folder / "experiment_cfg", tag)
    described = metadata.modalities
    widths = {f"state.{key}": each.shape[0] for key, each in described.state.items()}
    widths |= {f"action.{key}": each.shape[0] for key, each in described.action.items()}
    sizes = {key: camera.resolution for key, camera in described.video.items()}
    return Checkpoint(folder, N15, config, tag, known, widths, sizes, metadata)


def _of_n17(
    folder: Path,
    name: str,
    known: PolicyConfig | None,
    given: DataConfig | None,
    tag: str | None,
    given_tag: str | None,
) -> Checkpoint:
    """The processor's files beside the weights decide how the embodiment is read, as they do upstream."""
    files = processor_files.read(folder)
    described = {each: config for each, config in files.modality_configs.items() if each in files.statistics}
    tag = agreed_tag(tag, tag_of(given_tag) if given_tag else None, name, described)
    config = files.data_config(tag)
    if known:
        config = replace(config, name=known.data_config.name)
    if given:  # its padded widths are of N1.5 alone
        given = replace(given, max_state_dim=config.max_state_dim, max_action_dim=config.max_action_dim)
    statistics = files.of_tag(tag)
    widths = {f"state.{key}": each.shape[-1] for key, each in statistics.state.items()}
    widths |= {f"action.{key}": each.shape[-1] for key, each in statistics.action.items()}
    sizes = known.image_sizes if known else {}
    return Checkpoint(folder, N17, agreed_data_config(config, given, name), tag, known, widths, sizes)


def _generation(folder: Path) -> Generation:
    """That of the model in ``folder``; N1.5 where it does not say, which the model's loading then judges."""
    return generation_in(folder) or N15 if (folder / "config.json").is_file() else N15


def _registered(name: str) -> tuple[ObjectStore | None, CheckpointEntry | None]:
    """The registry's checkpoint of that name, and where it is; neither where it may be another kind of name."""
    if Path(name).is_absolute():
        return None, None
    try:
        store = existing_store("checkpoint")
        return store, registry.resolve(store, name)
    except UsageError:
        if name.count("/") == 1 and not name.endswith(("/best", "/latest")):
            return None, None  # perhaps a hub id
        raise


def _tags(folder: Path) -> dict[str, object]:
    """The embodiment tags with statistics in ``experiment_cfg/metadata.json``; none for a file that is damaged."""
    try:
        document = json.loads((folder / "experiment_cfg" / "metadata.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
