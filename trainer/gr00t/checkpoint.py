"""A checkpoint by any of its names: a folder, a name in the registry, a hub id; and what it knows of itself."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

from trainer.config.settings import pippa_home
from trainer.data.configs import DataConfig, get_data_config
from trainer.data.metadata import DatasetMetadata
from trainer.data.policy_config import PolicyConfig, read_policy_config
from trainer.errors import UsageError
from trainer.generation import DEFAULT, Generation, generation_in
from trainer.gr00t.base_model import resolve_folder
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
    recorded = entry.spec.config.data_config if entry else None
    read = _generation(folder).module("gr00t", "checkpoint").read
    return read(folder, name, known=known, recorded=recorded, given=given, tag=tag, given_tag=embodiment_tag)


def _generation(folder: Path) -> Generation:
    """That of the model in ``folder``; the default one where it does not say, which the model's loading then judges."""
    return generation_in(folder) or DEFAULT if (folder / "config.json").is_file() else DEFAULT


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
