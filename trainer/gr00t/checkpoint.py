"""A checkpoint by any of its names: a folder, a name in the registry, a hub id; and what it knows of itself."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from trainer.config.settings import pippa_home
from trainer.data.configs import DataConfig, get_data_config
from trainer.data.policy_config import (
    PolicyConfig,
    agreed_data_config,
    agreed_tag,
    read_policy_config,
    recorded_data_config,
)
from trainer.errors import UsageError
from trainer.gr00t.weights import resolve_folder
from trainer.store import registry
from trainer.store.local_cache import cached
from trainer.store.object_store import ObjectStore
from trainer.store.registry import CheckpointEntry
from trainer.store.stores import open_store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on this disk, and what it was trained as."""

    folder: Path
    data_config: DataConfig
    embodiment_tag: str
    known: PolicyConfig | None
    """Its own record; None for one of Isaac-GR00T or of an older pippa."""


def find_checkpoint(
    name: str | PathLike[str], data_config: DataConfig | str | None = None, embodiment_tag: str | None = None
) -> Checkpoint:
    """The checkpoint that ``name`` means: a folder, a name in the registry (``RUN/STEP``, ``RUN``, an alias), which is
    then pulled into the cache of this machine, or a hub id.

    ``data_config`` and ``embodiment_tag`` are for one that does not know them. Raises ``UsageError`` where there is
    none of that name, and for a data config or tag that contradicts what it was trained with.
    """
    entry = None
    if not Path(name).is_dir():
        store = open_store()
        entry = _registered(store, str(name))
        folder = cached(store, entry.snapshot, pippa_home(), log.info) if entry else resolve_folder(name)
    else:
        folder = resolve_folder(name)
    return described(folder, str(name), entry, data_config, embodiment_tag)


def described(
    folder: Path,
    name: str,
    entry: CheckpointEntry | None = None,
    data_config: DataConfig | str | None = None,
    embodiment_tag: str | None = None,
) -> Checkpoint:
    """The checkpoint in ``folder``, which people call ``name`` and the registry ``entry``. Raises ``UsageError``."""
    known = read_policy_config(folder)
    given = get_data_config(data_config) if isinstance(data_config, str) else data_config
    tag = known.embodiment_tag if known else entry.spec.config.embodiment_tag if entry else None
    recorded = entry.spec.config.data_config if entry else None
    config = known.data_config if known else recorded_data_config(recorded, name) if recorded else None
    return Checkpoint(
        folder,
        agreed_data_config(config, given, name),
        agreed_tag(tag, embodiment_tag, name, _tags(folder)),
        known,
    )


def _registered(store: ObjectStore, name: str) -> CheckpointEntry | None:
    """The registry's checkpoint of that name; None where there is none, and it may be another kind of name."""
    if Path(name).is_absolute():
        return None
    try:
        return registry.resolve(store, name)
    except UsageError:
        if name.count("/") == 1 and not name.endswith(("/best", "/latest")):
            return None  # perhaps a hub id
        raise


def _tags(folder: Path) -> dict[str, object]:
    """The embodiment tags with statistics in ``experiment_cfg/metadata.json``; none for a file that is damaged."""
    try:
        document = json.loads((folder / "experiment_cfg" / "metadata.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
