"""The object store, its checkpoints and its runs."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from flows.commands import opened_store
from flows.settings import load_environment
from trainer.errors import DamagedObjectError
from trainer.store import registry, runs, snapshots
from trainer.store.fallback import pull_newest_good
from trainer.store.object_store import ObjectStore
from trainer.store.registry import CheckpointEntry
from trainer.store.snapshots import SnapshotInfo

if TYPE_CHECKING:
    from flows.views.report import Report
    from trainer.config.run_spec import RunSpec
    from trainer.store.runs import RunState


class Store:
    """Where datasets, base models, checkpoints and runs are kept; ``open_store`` opens it.

    A list leaves out what is damaged, with a warning.
    """

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    @property
    def address(self) -> str:
        """Where it is: an endpoint and bucket, or a folder."""
        return self._objects.address

    def checkpoints(self, run: str | None = None) -> list[CheckpointEntry]:
        """The registered checkpoints (of one run), the oldest first."""
        damage: list[DamagedObjectError] = []
        found = registry.list_checkpoints(self._objects, run, damage)
        _warn_of(damage)
        return found

    def checkpoint(self, name: str) -> CheckpointEntry:
        """The checkpoint ``name``: ``RUN/STEP``, a run (its newest), or an alias such as ``smoke/best``."""
        return registry.resolve(self._objects, name)

    def aliases(self) -> dict[str, str]:
        """Every alias and the checkpoint it names."""
        damage: list[DamagedObjectError] = []
        found = registry.aliases(self._objects, damage)
        _warn_of(damage)
        return found

    def set_alias(self, alias: str, name: str) -> None:
        """Make ``alias`` a name of the checkpoint ``name``; garbage collection keeps what has one."""
        registry.set_alias(self._objects, alias, self.checkpoint(name))

    def remove_alias(self, alias: str) -> None:
        """Remove a name; its checkpoint stays."""
        registry.remove_alias(self._objects, alias)

    def verify(self, name: str) -> list[str]:
        """Read and hash every file of a checkpoint; what is wrong with them, empty where it is intact."""
        return snapshots.verify(self._objects, self.checkpoint(name).snapshot)

    def pull(self, name: str, folder: str | PathLike[str], *, fallback: bool = False) -> Path:
        """Download a checkpoint into the new folder ``folder``, every file verified; returns it.

        With ``fallback``, where it is damaged, the newest good one before it of its run, with a warning for each that
        is passed over.
        """
        place = Path(folder).expanduser()
        if fallback:
            pull_newest_good(
                self._objects, name, place, skipped=lambda _, error: warnings.warn(error.message, stacklevel=4)
            )
            return place
        return snapshots.pull(self._objects, self.checkpoint(name).snapshot, place)

    def export(self, name: str, folder: str | PathLike[str], *, adapter: bool = False) -> Path:
        """Write a checkpoint as a Hugging Face folder with a model card, or its LoRA adapters alone; returns it."""
        from trainer.export.folder import export

        place = Path(folder).expanduser().absolute()
        export(self._objects, self.checkpoint(name), place, adapter=adapter)
        return place

    def runs(self) -> list[Run]:
        """All runs, the oldest first."""
        damage: list[DamagedObjectError] = []
        found = [Run(self._objects, run.spec.run_id) for run in runs.list_runs(self._objects, damage)]
        _warn_of(damage)
        return found

    def run(self, run_id: str) -> Run:
        """The run of that id. Raises ``UsageError`` when there is none."""
        runs.read_spec(self._objects, run_id)
        return Run(self._objects, run_id)

    def datasets(self) -> list[SnapshotInfo]:
        """The datasets in it, the oldest first: name and digest (``ref``), files, bytes, origin."""
        return self._snapshots("dataset")

    def base_models(self) -> list[SnapshotInfo]:
        """The base models in it, as ``datasets`` lists datasets."""
        return self._snapshots("model")

    def _snapshots(self, kind: str) -> list[SnapshotInfo]:
        damage: list[DamagedObjectError] = []
        found = snapshots.list_snapshots(self._objects, "dataset" if kind == "dataset" else "model", damage)
        _warn_of(damage)
        return found

    def __repr__(self) -> str:
        return f"Store({self.address!r})"


@dataclass(frozen=True, repr=False)
class Run:
    """One training, as the store knows it now."""

    _objects: ObjectStore
    id: str

    @property
    def spec(self) -> RunSpec:
        """What it trains: preset, resolved configuration, digests of data and base model."""
        return runs.read_spec(self._objects, self.id)

    @property
    def state(self) -> RunState | None:
        """How it goes: status, step, of how many; None until its first word."""
        return runs.read_state(self._objects, self.id)

    @property
    def checkpoints(self) -> list[CheckpointEntry]:
        """Its registered checkpoints by step."""
        return registry.list_checkpoints(self._objects, self.id)

    def report(self) -> Report:
        """Everything that the summary of a training says, its verdict too."""
        from flows.views.report import build_report

        return build_report(self._objects, self.id)

    def __repr__(self) -> str:
        return f"Run({self.id!r})"


def open_store() -> Store:
    """The object store of the settings: ``PIPPA_S3_ENDPOINT``'s, else the folder of this machine.

    Raises ``StoreError`` when it can't be reached or refuses.
    """
    load_environment()
    return Store(opened_store())


def _warn_of(damage: list[DamagedObjectError]) -> None:
    for error in damage:
        warnings.warn(error.message, stacklevel=3)
