"""Imports a training's datasets and base model into the store, from wherever the flow runs.

What the store has already is found without a container. What it lacks is imported by this process when that is where
training happens, or when it is a folder of this machine, and else by ``trainer prepare`` where the trainer runs: an
orchestrator's image has neither torch nor a video decoder.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

from flows.launch import Job, LauncherName
from flows.launch.follow import failure, follow
from flows.launch.launchers import get_launcher
from flows.settings import stop_grace
from trainer import importers
from trainer.config.data_options import DataOptions
from trainer.config.run_spec import SnapshotRef
from trainer.config.settings import pippa_home
from trainer.data.config_file import as_argument
from trainer.data.data_config import DataConfig
from trainer.errors import PippaError, UsageError
from trainer.events import Event, PhaseEvent, SnapshotEvent
from trainer.store.object_store import ObjectStore
from trainer.store.stores import open_store

Observe = Callable[[Event], None]


def ensure_imported(
    kind: importers.Kind,
    name: str,
    launcher: LauncherName,
    owner: str,
    *,
    data_config: str | DataConfig | None = None,
    options: DataOptions = DataOptions(),  # noqa: B008 - frozen
    observe: Observe = lambda _: None,
) -> SnapshotRef:
    """The snapshot that ``name`` means (``trainer.importers``), imported unless the store has it.

    ``owner`` is the run, or else the flow run, that wants it; asking again for the same owner continues what was begun.
    Raises as ``trainer.importers`` does, and ``KeyboardInterrupt`` when Ctrl-C stopped it.
    """
    store = open_store()
    if ref := importers.find(store, kind, name):
        return ref
    if launcher == "process" or importers.is_folder(name):
        return _import_here(store, kind, name, data_config, options, observe)
    job = prepare_job(kind, name, owner, data_config, options)
    found: list[SnapshotRef] = []

    def keep(event: Event) -> None:
        if isinstance(event, SnapshotEvent):
            found.append(event.ref)
        observe(event)

    training = get_launcher(launcher, pippa_home()).start(job, os.environ)
    outcome = follow(training, keep, stop_grace())
    if outcome.interrupted:
        raise KeyboardInterrupt
    if error := failure(outcome, training):
        raise error
    if not found:
        raise PippaError(f"`trainer prepare` ended well but named no snapshot for {name}.", f"Its log: {training.log}")
    return found[-1]


def prepare_job(
    kind: importers.Kind,
    name: str,
    owner: str,
    data_config: str | DataConfig | None = None,
    options: DataOptions = DataOptions(),  # noqa: B008 - frozen
) -> Job:
    """The job that brings ``name`` into the store for ``owner`` and says which snapshot it is."""
    arguments = ["prepare", "dataset" if kind == "dataset" else "base-model", name, "--events"]
    if data_config is not None and kind == "dataset":
        arguments += ["--data-config", as_argument(data_config), *options.to_argv()]
    which = hashlib.sha256(name.encode()).hexdigest()[:6]
    return Job(
        name=f"{owner}-{kind}-{which}", role="prepare", arguments=arguments, labels={"run-id": owner, "source": name}
    )


def _import_here(
    store: ObjectStore,
    kind: importers.Kind,
    name: str,
    data_config: str | DataConfig | None,
    options: DataOptions,
    observe: Observe,
) -> SnapshotRef:
    work = importers.downloads_folder(pippa_home())

    def log(line: str) -> None:
        observe(PhaseEvent(phase="prepare", message=line))

    try:
        if kind == "dataset":
            return importers.dataset(store, name, work, data_config=data_config, options=options, log=log)
        return importers.base_model(store, name, work, log=log)
    except ModuleNotFoundError as error:
        # The image of the flows is not made to look into datasets and models.
        raise UsageError(
            f"{name} can't be imported from here: {error.name} is not installed.",
            "From where pippa is whole: `pippa data push FOLDER` or `pippa models add ./FOLDER`; "
            "then name it as the store does.",
        ) from error
