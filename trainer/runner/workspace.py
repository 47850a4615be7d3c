"""A run's folders on this machine: its own, the shared cache, the engine's output; and what it resumes from."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.config.run_spec import RunSpec, SnapshotRef
from trainer.disk import is_disk_full
from trainer.errors import PippaError, UsageError
from trainer.events import Event, WarningEvent
from trainer.runner import checkpoint_folder
from trainer.runner.crash_diagnosis import disk_full
from trainer.store import registry, resume_points, snapshots
from trainer.store.object_store import ObjectStore

_OWNER = ".pippa-run"
LOCK_SECONDS = 300.0


def run_folder(home: Path, run_id: str) -> Path:
    """The run's own folder: events, log, W&B files, report, and an output directory named relative to it."""
    return home / "runs" / run_id


@contextmanager
def locked(folder: Path, waiting: Callable[[str], None], seconds: float = LOCK_SECONDS) -> Iterator[int]:
    """Hold the run on this machine; yields the lock's file descriptor, for the engine to inherit.

    An engine whose supervisor was killed saves a last checkpoint before it ends, and the lock it inherited keeps a
    restarted supervisor from touching the same folder until then. Raises ``UsageError`` after ``seconds``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline = time.monotonic() + seconds
        told = False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UsageError(
                        f"{folder.name} is already running on this machine.",
                        "Wait for it, or stop it first (Ctrl-C, or SIGTERM to its `trainer run`).",
                    ) from None
                if not told:
                    waiting("Waiting for an earlier attempt of this run to end.")
                    told = True
                time.sleep(0.2)
        yield handle
    finally:
        os.close(handle)


def claim_output_dir(output_dir: Path, run_id: str, *, resume: bool, registered: bool) -> set[int]:
    """Make ``output_dir`` the run's; returns the steps of checkpoints in it that another training left.

    Raises ``UsageError`` when it holds another training's checkpoints and the run isn't meant to resume from them, or
    when there is nothing to resume from.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    owner = output_dir / _OWNER
    foreign: set[int] = set()
    if not (owner.is_file() and owner.read_text().split() == [run_id]):
        foreign = set(checkpoint_folder.checkpoints(output_dir))
        if foreign and not resume:
            raise UsageError(
                f"{output_dir} holds checkpoints of another training (step {max(foreign)}).",
                "Choose another --output-dir, or --resume to continue from them.",
            )
        if resume and not (foreign or registered):
            raise UsageError(
                f"--resume: there is no checkpoint in {output_dir}.",
                "`trainer run --run-id RUN` continues a run of the store; without --resume the training starts afresh.",
            )
        owner.write_text(run_id)
    return foreign


def resume_step(
    store: ObjectStore,
    spec: RunSpec,
    output_dir: Path,
    registered: dict[int, SnapshotRef],
    emit: Callable[[Event], None],
) -> int | None:
    """Put the newest checkpoint there is, on this disk or in the store, into ``output_dir``; returns its step.

    From the store only one with its training state will do, unless nothing is left to train. Raises ``UsageError`` for
    a checkpoint that the disk doesn't let be read: it may be the newest whole one, and is neither removed nor left out.
    """
    local = 0
    for step, folder in checkpoint_folder.checkpoints(output_dir).items():
        try:
            problem = checkpoint_folder.problem(folder, step)
        except OSError as error:
            raise UsageError(
                f"{error.filename or folder} can't be read ({error.strerror}).",
                "Look after that disk and run this again; or, to go on without this checkpoint, move "
                f"{folder.name} to another folder.",
            ) from error
        if problem is None:
            local = step
            continue
        # An engine killed while saving in place leaves half a folder, which upstream's --resume would choose.
        emit(WarningEvent(message=f"{folder.name} was left unfinished and is removed: {problem}."))
        shutil.rmtree(folder)
    newest = max(registered, default=0)
    stored, snapshot = newest, registered.get(newest)
    if newest < spec.config.max_steps:
        point = resume_points.read(store, spec.run_id)
        stored, snapshot = (point.step, point.snapshot) if point else (0, None)
    if snapshot is not None and stored > local:
        snapshots.pull(store, snapshot, output_dir / f"checkpoint-{stored}")
        local = stored
    if local < newest:
        emit(
            WarningEvent(
                message=f"Step {newest} is registered, but the optimizer's state was kept at step {local} last: "
                "the training goes on from there.",
                hint="The registered checkpoints stay as they are.",
            )
        )
    return local or None


def registered_steps(store: ObjectStore, run_id: str) -> dict[int, SnapshotRef]:
    """The run's checkpoints in the registry."""
    return {entry.step: entry.snapshot for entry in registry.list_checkpoints(store, run_id)}


def as_pippa_error(error: BaseException, where: Path | str) -> PippaError | None:
    """``error`` as one with a cure, if it is one: a full disk is nobody's defect."""
    if isinstance(error, PippaError):
        return error
    if is_disk_full(error):
        return disk_full(error.filename or where)
    return None
