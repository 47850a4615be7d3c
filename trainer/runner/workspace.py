"""A run's folders on this machine: its own, the shared cache, the engine's output; and what it resumes from."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from pathlib import Path

from trainer.config.run_spec import RunSpec, SnapshotRef
from trainer.disk import as_disk_full
from trainer.disk import locked as lock_file
from trainer.errors import PippaError, UsageError
from trainer.events import Event, WarningEvent
from trainer.runner import checkpoint_folder
from trainer.store import registry, resume_points, snapshots
from trainer.store.object_store import ObjectStore

_OWNER = ".pippa-run"
LOCK_SECONDS = 300.0
MACHINE = "PIPPA_MACHINE"
"""The variable that names a container's machine; its own host name means nothing to people."""


def run_folder(home: Path, run_id: str) -> Path:
    """The run's own folder: events, log, W&B files, report, and an output directory named relative to it."""
    return home / "runs" / run_id


@contextmanager
def locked(folder: Path, waiting: Callable[[str], None], seconds: float = LOCK_SECONDS) -> Generator[int]:
    """Hold the run on this machine; yields the lock's file descriptor, for the engine to inherit.

    An engine whose supervisor was killed saves a last checkpoint before it ends, and the lock it inherited keeps a
    restarted supervisor from touching the same folder until then. Raises ``UsageError`` after ``seconds``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline = time.monotonic() + seconds
        reported = False
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
                if not reported:
                    waiting("Waiting for an earlier attempt of this run to end.")
                    reported = True
                time.sleep(0.2)
        yield handle
    finally:
        os.close(handle)


def lock_address(folder: Path) -> str:
    """Where the lock of ``locked``, which its holder asks this for, is: for ``is_held`` on any machine.

    The lock's file says the same. So a folder of the same name on another machine is not taken for it, and one that is
    still there after the machine's start, or in another container, is.
    """
    address = f"{_machine()}:{folder / 'lock'}"
    (folder / "lock").write_text(address, encoding="utf-8")
    return address


def is_held(address: str) -> bool | None:
    """Whether a process of this machine holds the lock at ``address``; None where only another machine can tell."""
    path = lock_file_of(address)
    if not path.is_file() or path.read_text(encoding="utf-8") != address:
        return None
    try:
        with lock_file(path, wait=False):
            return False
    except BlockingIOError:
        return True


def lock_file_of(address: str) -> Path:
    """The file of a lock, on its machine."""
    return Path(address.partition(":")[2])


def machine_of(address: str) -> str:
    """The name of the machine of a lock, for people; empty where it is not known."""
    return address.partition(":")[0].partition("/")[0]


def _machine() -> str:
    """What this machine is called until it is started again; a container is told the name of the one it runs on."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = str(uuid.getnode())
    return f"{os.environ.get(MACHINE) or socket.gethostname()}/{boot}"


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
                "`trainer run --run-id RUN` continues a run of the store; without --resume it starts at step 0.",
            )
        owner.write_text(run_id)
    return foreign


def resume_step(
    store: ObjectStore,
    spec: RunSpec,
    output_dir: Path,
    registered: dict[int, SnapshotRef],
    emit: Callable[[Event], None],
    foreign: Collection[int] = (),
) -> int | None:
    """Put the newest checkpoint there is, on this disk or in the store, into ``output_dir``; returns its step.

    One with its training state, unless nothing is left to train. Raises ``UsageError`` for a checkpoint that the disk
    doesn't let be read: it may be the newest whole one, and is neither removed nor left out; and where a ``foreign``
    one, which another training left, is at the last step or beyond, so that the run would do nothing.
    """
    local = 0
    for step, folder in checkpoint_folder.checkpoints(output_dir).items():
        try:
            problem = checkpoint_folder.problem(folder, step)
            stateless = step < spec.config.max_steps and checkpoint_folder.resume_problem(folder, step)
        except OSError as error:
            raise UsageError(
                f"{error.filename or folder} can't be read ({error.strerror}).",
                "Look after that disk and run this again; or, to continue without this checkpoint, move "
                f"{folder.name} to another folder.",
            ) from error
        if problem is None and not stateless:
            local = step
            continue
        if problem is None and step not in foreign:
            # A whole policy all the same: it is uploaded, and the engine's --resume does not find it.
            emit(WarningEvent(message=f"The training can't continue from {folder.name}: {stateless}."))
            _lay_aside(folder, needed=step not in registered)
            continue
        # An engine killed while saving in place leaves half a folder, which upstream's --resume would choose.
        emit(WarningEvent(message=f"{folder.name} was left unfinished and is removed: {problem or stateless}."))
        shutil.rmtree(folder)
    if local in foreign and local >= spec.config.max_steps:
        raise UsageError(
            f"--resume: {output_dir} holds step {local}, and --max-steps is {spec.config.max_steps}: nothing is left "
            "to train.",
            "Raise --max-steps, or leave --resume out and choose another --output-dir.",
        )
    newest = max(registered, default=0)
    stored, snapshot = newest, registered.get(newest)
    if newest < spec.config.max_steps:
        point = resume_points.read(store, spec.run_id)
        stored, snapshot = (point.step, point.snapshot) if point else (0, None)
    if snapshot is not None and stored > local:
        snapshots.pull(store, snapshot, output_dir / f"checkpoint-{stored}")
        local = stored
    if local < newest:
        last = f"was kept at step {local} last: the training continues from there"
        never = "never reached the store: the training begins again, at step 0"
        emit(
            WarningEvent(
                message=f"Step {newest} is registered, but the optimizer's state {last if local else never}.",
                hint="The registered checkpoints stay as they are.",
            )
        )
    return local or None


def _lay_aside(folder: Path, *, needed: bool) -> None:
    """Take a checkpoint out of the engine's sight, among those that wait for their upload where that is ``needed``."""
    pending = folder.parent / checkpoint_folder.PENDING
    if needed and not (pending / folder.name).exists():
        pending.mkdir(exist_ok=True)
        folder.rename(pending / folder.name)
    else:
        shutil.rmtree(folder)


def registered_steps(store: ObjectStore, run_id: str) -> dict[int, SnapshotRef]:
    """The run's checkpoints in the registry."""
    return {entry.step: entry.snapshot for entry in registry.list_checkpoints(store, run_id)}


def as_pippa_error(error: BaseException, where: Path | str) -> PippaError | None:
    """``error`` as one with a hint, if it is one: a full disk is no defect of pippa."""
    return error if isinstance(error, PippaError) else as_disk_full(error, where)
