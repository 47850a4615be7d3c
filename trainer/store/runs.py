"""The record of each run in the object store: what it is (spec), how it goes (state), and what it left.

``runs/<run id>/{spec.json,state.json,events.jsonl,log.txt,wandb/,report/}``, and ``resume.json`` (``resume_points``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trainer.config.run_spec import RUN_ID, RunSpec
from trainer.errors import DamagedObjectError, StoreError, UsageError
from trainer.store import tree
from trainer.store.blobs import UPLOADS
from trainer.store.damage import read_good
from trainer.store.hashing import hash_file
from trainer.store.object_store import DOCUMENT_BYTES, ObjectStore, damaged
from trainer.store.parallel import for_each
from trainer.wrong_values import first_problem

Model = TypeVar("Model", bound=BaseModel)

RUNS = "runs/"
ACTIVE = ("preparing", "running")


class RunState(BaseModel):
    """How a run goes. Written by the process that carries it out, and replaced as it proceeds."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    status: Literal["preparing", "running", "done", "failed", "stopped"]
    phase: str = ""
    step: int = 0
    of: int = 0
    exit_code: int | None = None
    message: str = ""
    updated: datetime = Field(default_factory=lambda: datetime.now(UTC))
    started: datetime | None = None
    ended: datetime | None = None
    metrics: dict[str, float] = {}
    lock: str = ""
    """What its processes hold while they live: ``MACHINE:FILE``."""

    @property
    def active(self) -> bool:
        """Whether the run says that it is still active; one that was killed says so forever."""
        return self.status in ACTIVE


@dataclass(frozen=True)
class Run:
    """One line of a list of runs."""

    spec: RunSpec
    state: RunState | None
    """None until the run's first word, and where it is damaged."""


def write_spec(store: ObjectStore, spec: RunSpec) -> None:
    """Write what a run is, once. Raises ``StoreError`` when the run exists with another spec."""
    if not store.write_json(f"{RUNS}{spec.run_id}/spec.json", spec.model_dump(mode="json"), if_absent=True):
        raise StoreError(f"There is a run {spec.run_id} already, with another spec.", "Start it again for a new id.")


def read_spec(store: ObjectStore, run_id: str) -> RunSpec:
    """What a run is. Raises ``UsageError`` when there is no such run, ``DamagedObjectError`` for a damaged one."""
    spec = read_document(store, run_id, "spec.json", RunSpec)
    if spec is None:
        raise UsageError(f"There is no run {run_id} in the object store.", "`pippa runs` lists them.")
    if spec.run_id != run_id:
        raise damaged(f"{RUNS}{run_id}/spec.json", f"it is that of {spec.run_id}")
    return spec


def write_state(store: ObjectStore, run_id: str, state: RunState) -> None:
    """Replace the state of a run."""
    _check_run_id(run_id)
    store.write_json(f"{RUNS}{run_id}/state.json", state.model_dump(mode="json"))


def read_state(store: ObjectStore, run_id: str, damage: list[DamagedObjectError] | None = None) -> RunState | None:
    """The state of a run; None when it has written none, or a damaged one, whose error is put into ``damage``.

    What a run says of itself is worth no failure: it says it again every few seconds.
    """
    try:
        return read_document(store, run_id, "state.json", RunState)
    except DamagedObjectError as error:
        if damage is not None:
            damage.append(error)
        return None


def list_runs(store: ObjectStore, damage: list[DamagedObjectError] | None = None) -> list[Run]:
    """All runs, the oldest first. What is damaged is left out, and its errors are put into ``damage``."""

    def read(run_id: str) -> Run:
        return Run(read_spec(store, run_id), read_state(store, run_id, damage))

    runs = read_good(read, with_file(store, "spec.json"), damage)
    return sorted(runs, key=lambda run: (run.spec.created, run.spec.run_id))


def with_file(store: ObjectStore, name: str) -> list[str]:
    """The runs whose record has the file ``name``."""
    paths = [found.key.removeprefix(RUNS).partition("/") for found in store.list(RUNS)]
    return [run_id for run_id, _, path in paths if path == name and RUN_ID.fullmatch(run_id)]


def write_file(store: ObjectStore, run_id: str, name: str, content: bytes) -> None:
    """Write one file of a run's record, such as ``events.jsonl`` or ``log.txt``, replacing what was there."""
    _check_run_id(run_id)
    store.write_bytes(f"{RUNS}{run_id}/{name}", content)


def read_file(store: ObjectStore, run_id: str, name: str) -> bytes | None:
    """One file of a run's record; None when there is none."""
    _check_run_id(run_id)
    return store.read_bytes(f"{RUNS}{run_id}/{name}")


def list_files(store: ObjectStore, run_id: str, name: str = "") -> list[str]:
    """Names of the files of a run's record (in its folder ``name``), relative to the record."""
    _check_run_id(run_id)
    prefix = f"{RUNS}{run_id}/"
    return [found.key.removeprefix(prefix) for found in store.list(f"{prefix}{name}/" if name else prefix)]


def upload_folder(
    store: ObjectStore, run_id: str, folder: Path, name: str, ignore: Callable[[str], bool] | None = None
) -> list[str]:
    """Copy ``folder`` into a run's record as ``name`` (``report``, ``wandb``); the keys written.

    Unlike a snapshot it may be written again as it grows, and files are replaced one by one.
    """
    _check_run_id(run_id)

    def upload(file: tree.LocalFile) -> str:
        key = f"{RUNS}{run_id}/{name}/{file.path}"
        store.put_file(file.source, key, hashed=hash_file(file.source))
        return key

    return for_each(upload, tree.scan(folder, ignore), workers=UPLOADS)


def download_folder(store: ObjectStore, run_id: str, name: str, folder: Path) -> list[Path]:
    """Copy the folder ``name`` of a run's record (all of it where that is empty) to ``folder``; the files written."""
    written = []
    for file in list_files(store, run_id, name):
        target = folder / (file.removeprefix(f"{name}/") if name else file)
        if not target.resolve().is_relative_to(folder.resolve()):
            raise StoreError(f"The record of {run_id} holds a file outside itself: {file}.", "Delete that object.")
        target.parent.mkdir(parents=True, exist_ok=True)
        store.get_file(f"{RUNS}{run_id}/{file}", target)
        written.append(target)
    return written


def read_document(store: ObjectStore, run_id: str, name: str, model: type[Model]) -> Model | None:
    """One document of a run's record; None when there is none. Raises ``DamagedObjectError``."""
    _check_run_id(run_id)
    content = store.read_bytes(f"{RUNS}{run_id}/{name}", DOCUMENT_BYTES)
    try:
        return None if content is None else model.model_validate_json(content)
    except ValidationError as error:
        why = f"{first_problem(error, model)} (or it comes from a newer pippa)"
        raise damaged(f"{RUNS}{run_id}/{name}", why) from error


def _check_run_id(run_id: str) -> None:
    if not RUN_ID.fullmatch(run_id):
        raise UsageError(f"{run_id!r} is not a run id.", "`pippa runs` lists them.")
