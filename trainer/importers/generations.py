"""Which generation of GR00T a base model is, known before it is downloaded where that can be, and what trains it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer import importers
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.presets import PRESETS
from trainer.data.configs import get_data_config
from trainer.data.rules import rules_of
from trainer.errors import StoreError, UsageError
from trainer.generation import GENERATIONS, Generation, generation_in, generation_of, is_tiny, named_generation
from trainer.importers.names import is_folder
from trainer.store.manifest import blob_key, read_manifest
from trainer.store.object_store import ObjectStore
from trainer.store.stores import open_store


def require_trainable(
    config: FinetuneConfig, store: ObjectStore | None = None, environ: Mapping[str, str] = os.environ
) -> None:
    """Raise ``UsageError`` where the base model or the data config of ``config`` is another generation's than its
    arguments, or no GR00T, or where the data config predicts more steps at once than the base model.

    A base model is looked up in ``store``; without one, in the store of this machine, if it is a folder: no server is
    asked. What is nowhere yet is known by its name.
    """
    wanted = config.generation
    data_config = get_data_config(config.data_config)
    if only := rules_of(wanted.name).unsupported(data_config):
        able = [each for each in GENERATIONS if not rules_of(each.name).unsupported(data_config)]
        others = " or ".join(f"{each}: {_presets_of(each, config)}" for each in able)
        raise UsageError(
            f"--data-config asks for what {wanted} can't do: {', '.join(only)}.",
            "Leave that out of the data config" + (f", or train {others}." if others else "."),
        )
    if store is None and not environ.get("PIPPA_S3_ENDPOINT"):
        store = open_store(environ)
    found = generation_called(config.base_model_path, store)
    if found is not None and found != wanted:
        raise UsageError(
            f"--base-model-path {config.base_model_path} is {found}; this preset trains {wanted}.",
            f"Take a preset that trains {found}: {_presets_of(found, config)}. For this preset, take a base model of "
            f"{wanted}, such as {wanted.official}.",
        )
    require_horizon(config, store)


def require_horizon(config: FinetuneConfig, store: ObjectStore | None = None) -> None:
    """Raise ``UsageError`` where the data config predicts more steps at once than the base model.

    Where the generation has such a limit. What is nowhere yet, and not NVIDIA's, says so when it is here.
    """
    wanted = config.generation
    name, data_config = config.base_model_path, get_data_config(config.data_config)
    values: dict[str, Any] | None = {} if name in (wanted.official, wanted.tiny) else None
    if is_folder(name):
        try:
            values = json.loads((Path(name).expanduser() / "config.json").read_text())
        except (OSError, ValueError):  # no model, which is said when it is loaded
            return
    elif store is not None:
        values = _stored_config(store, name) or values
    if values is None:
        return
    limit = wanted.module("gr00t", "sections").longest_horizon(values)
    if isinstance(limit, int) and data_config.action_horizon > limit:
        raise UsageError(
            f"--data-config: {data_config.name} predicts {data_config.action_horizon} steps at once; the base model "
            f"{name} predicts at most {limit}.",
            f"Set action_horizon to {limit} or less in a data config of your own, or take a base model that predicts "
            "more.",
        )


def _presets_of(generation: Generation, config: FinetuneConfig) -> str:
    """The presets that train ``generation``; only that one which is on the data of ``config``, if there is one."""
    theirs = [preset for preset in PRESETS.values() if preset.kind.generation == generation]
    same = [preset for preset in theirs if preset.config.dataset_path == config.dataset_path]
    return ", ".join(f"`pippa train {preset.name}`" for preset in same[:1] or theirs)


def generation_called(name: str, store: ObjectStore | None) -> Generation | None:
    """The generation of the base model ``name``; None where it can't be known yet. Raises ``UsageError`` for a folder
    or snapshot without a GR00T, and for a GR00T that pippa does not support.
    """
    if is_tiny(name):
        return named_generation(name)
    if is_folder(name):
        folder = Path(name).expanduser()
        if not (folder / "config.json").is_file():
            raise UsageError(f"{name} is not a model: it has no config.json.", "Name the folder that has one.")
        return generation_in(folder)
    if store is not None and (values := _stored_config(store, name)) is not None:
        return generation_of(values, f"config.json of {name}")
    return named_generation(name)


def _stored_config(store: ObjectStore, name: str) -> dict[str, object] | None:
    """``config.json`` of the snapshot that ``name`` means; None where there is none, or it can't be read: what is wrong
    with it is reported when it is used.
    """
    try:
        if (ref := importers.find(store, "model", name)) is None:
            return None
        entry = next((file for file in read_manifest(store, ref).files if file.path == "config.json"), None)
        values = json.loads(store.read_bytes(blob_key(entry.sha256)) or b"null") if entry else None
    except (StoreError, ValueError):
        return None
    return values if isinstance(values, dict) else None
