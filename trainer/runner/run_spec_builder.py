"""From a resolved configuration to a run spec, with everything it needs in the object store."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from trainer import importers
from trainer.config.argv import Provenance, require_engine_can
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.presets import Preset
from trainer.config.run_spec import Engine, RunSpec, SnapshotRef, new_run_id
from trainer.config.settings import pippa_home
from trainer.errors import UsageError
from trainer.importers.generations import require_trainable
from trainer.runner.wandb_setup import default_wandb
from trainer.store.object_store import ObjectStore
from trainer.version import git_sha


def prepare_sources(
    store: ObjectStore, config: FinetuneConfig, home: Path | None = None, log: importers.Log = lambda _: None
) -> tuple[list[SnapshotRef], SnapshotRef]:
    """The snapshots of the configuration's datasets, in its order, and its base model. Raises as ``sources`` does."""
    work = importers.downloads_folder(home or pippa_home())
    require_trainable(config, store)
    # The datasets first: a bad one is refused before a base model of gigabytes is fetched.
    datasets = [
        importers.dataset(store, name, work, data_config=config.data_config, options=options, log=log)
        for name, options in zip(config.dataset_path, config.data_options, strict=True)
    ]
    base_model = importers.base_model(store, config.base_model_path, work, log=log)
    require_trainable(config, store)  # now that its config.json is here
    return datasets, base_model


def new_spec(
    preset: Preset,
    config: FinetuneConfig,
    provenance: Provenance,
    datasets: list[SnapshotRef],
    base_model: SnapshotRef,
    engine: Engine = "native",
    environ: Mapping[str, str] = os.environ,
    run_id: str | None = None,
    image: str | None = None,
) -> RunSpec:
    """A new run: its id (made here unless given), and everything that decides what it trains.

    ``image`` is the digest of the image it will run in, by default that of this process: ``PIPPA_IMAGE``. Raises
    ``UsageError`` for what ``engine`` can't do.
    """
    require_engine_can(config, engine)
    run_id = run_id or new_run_id(preset.name)
    return RunSpec(
        run_id=run_id,
        preset=preset.name,
        engine=engine,
        config=config,
        provenance=provenance,
        datasets=datasets,
        base_model=base_model,
        wandb=default_wandb(preset, run_id, environ, config),
        git_sha=git_sha(environ),
        image=image or environ.get("PIPPA_IMAGE") or None,
    )


def engine_from(environ: Mapping[str, str] = os.environ) -> Engine:
    """The engine this image carries: ``PIPPA_ENGINE``, by default the native one. Raises ``UsageError``."""
    name = environ.get("PIPPA_ENGINE") or "native"
    for engine in get_args(Engine):
        if name == engine:
            return engine
    raise UsageError(f"PIPPA_ENGINE is {name!r}.", f"The engines are {', '.join(get_args(Engine))}.")


def require_engine_here(engine: Engine, run: str = "This", environ: Mapping[str, str] = os.environ) -> None:
    """Raise ``UsageError`` where a process of this environment would train ``run`` with another engine than ``engine``.

    What it starts is ``PIPPA_FINETUNE_COMMAND``, and without one pippa's own engine.
    """
    if engine != "native" and not environ.get("PIPPA_FINETUNE_COMMAND"):
        raise UsageError(
            f"The engine {engine} is not here: PIPPA_FINETUNE_COMMAND, the command that starts it, is not set.",
            f"`pippa train PRESET --launcher docker` trains in the image of {engine}; or set it to an installed "
            "Isaac-GR00T's.",
        )
    if engine != (carried := engine_from(environ)):
        raise UsageError(
            f"{run} is a run of the engine {engine}; what is here is {carried} (PIPPA_ENGINE).",
            f"Use the image of {engine}: `pippa train PRESET --launcher docker`, or set PIPPA_ENGINE to what is here.",
        )
