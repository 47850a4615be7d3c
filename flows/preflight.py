"""What can be known before a training starts, from its flags, this machine and the store: all problems in one error.

Nothing here imports Prefect or torch, and nothing is left on the disk.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from flows import compose_discovery
from flows.launch.machine import cards, require_gpus, trainings_per_gpu
from flows.prefect_server import require_server
from flows.settings import stop_grace
from trainer import importers
from trainer.config.argv import require_engine_can
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.run_spec import Engine
from trainer.config.settings import S3Settings, frame_cache_bytes, pippa_home, price_per_hour, upload_patience
from trainer.disk import require_home, require_writable
from trainer.errors import UsageError, require_all
from trainer.importers.generations import require_trainable
from trainer.importers.names import Folder, Kind, parse
from trainer.runner.run_spec_builder import require_engine_here
from trainer.store.stores import open_store, store_folder
from trainer.training.devices import CPU_PROCESSES

Check = Callable[[], Any]


def require_resolvable(config: FinetuneConfig, launcher: str, engine: Engine) -> None:
    """What ``--dry-run`` asks of a training: that its flags fit each other and its folders exist.

    Raises one ``PippaError`` with everything that is wrong.
    """
    require_all(_of_the_flags(config, launcher, engine))


def require_startable(config: FinetuneConfig, launcher: str, engine: Engine) -> None:
    """The same, and that the machine, the store and the servers it needs are there."""
    compose_discovery.adopt(pippa_home())
    require_all([*_of_the_flags(config, launcher, engine), *_of_the_machine(config, launcher)])
    # Asking a store takes a moment, and makes no sense where its settings are wrong.
    require_all(_of_the_store(config, launcher))


def _of_the_flags(config: FinetuneConfig, launcher: str, engine: Engine) -> Iterator[Check]:
    yield partial(require_engine_can, config, engine)
    if launcher == "process":
        yield partial(require_engine_here, engine)
    yield partial(_require_one_node, config, launcher)
    yield from (frame_cache_bytes, upload_patience, stop_grace, trainings_per_gpu, price_per_hour)
    for name in config.dataset_path:
        yield partial(_require_name, "dataset", name, launcher)
    yield partial(_require_name, "model", config.base_model_path, launcher)
    yield partial(require_trainable, config)


def _of_the_machine(config: FinetuneConfig, launcher: str) -> Iterator[Check]:
    home = pippa_home()
    yield partial(require_home, home)
    if launcher == "process":
        yield partial(_require_gpus, config)
        folder = Path(config.output_dir).expanduser()
        if folder.is_absolute():
            yield partial(require_writable, folder, "--output-dir", "Name a folder that you may write to.")
    if launcher == "docker":
        yield _require_docker
    if os.environ.get("PREFECT_API_URL"):
        yield partial(require_server, os.environ["PREFECT_API_URL"])
    if os.environ.get("PIPPA_S3_ENDPOINT"):
        yield S3Settings.from_environ


def _of_the_store(config: FinetuneConfig, launcher: str) -> Iterator[Check]:
    if launcher == "remote":  # its store is the worker's
        return
    yield partial(importers.require_known, "dataset", config.dataset_path, _store)
    yield partial(importers.require_known, "model", [config.base_model_path], _store)


def _store() -> Any:
    """The store where there is one; None where a training would make the first."""
    if not os.environ.get("PIPPA_S3_ENDPOINT") and not store_folder(pippa_home()).is_dir():
        return None
    store = open_store()
    store.open()
    return store


def _require_name(kind: Kind, name: str, launcher: str) -> None:
    source = parse(kind, name)
    if not isinstance(source, Folder):
        return
    if kind == "dataset":
        source.existing()
    if launcher == "remote":
        push = "pippa data push" if kind == "dataset" else "pippa models add"
        flag = "--dataset-path" if kind == "dataset" else "--base-model-path"
        raise UsageError(
            f"{name}: a folder of this machine, and the training runs on another one.",
            f"Push it first: `{push} {name} --name NAME`, then {flag} NAME.",
        )


def _require_one_node(config: FinetuneConfig, launcher: str) -> None:
    if config.num_nodes > 1 and launcher != "process":
        raise UsageError(
            f"--num-nodes {config.num_nodes} with --launcher {launcher}: containers of several machines don't find "
            "each other.",
            "Use --launcher process on every machine, or a job of SkyPilot or Kubernetes (docs/deploy.md).",
        )


def _require_gpus(config: FinetuneConfig, environ: Mapping[str, str] = os.environ) -> None:
    if config.num_gpus == 1:
        return
    found = cards("process")
    if found:
        require_gpus("this machine", [card.index for card in found], config.num_gpus)
    elif environ.get(CPU_PROCESSES) != "1":
        raise UsageError(
            f"--num-gpus {config.num_gpus}, and this machine has no NVIDIA GPU.",
            "Use --num-gpus 1, and raise --gradient-accumulation-steps to keep the global batch.",
        )


def _require_docker() -> None:
    from flows.launch.docker.docker_client import connect

    connect().close()
