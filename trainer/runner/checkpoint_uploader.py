"""Checkpoints on their way into the object store, while the training continues.

One thread takes every complete ``checkpoint-<step>`` of the engine's output directory aside by hard links, so that the
engine may delete it (``save_total_limit``) before it is uploaded. The native engine says when there is one; for
upstream's, which do not, the thread looks. Another uploads what was taken aside, lowest step first, and registers it
(``checkpoint_registration``). The training waits for neither; the store may be down for as long as it likes.

What waits on the disk is bounded (``upload_queue``): while the store is away for long, the oldest of those that wait is
dropped, with a warning each time; never the newest.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from trainer.config.run_spec import RunSpec
from trainer.config.settings import upload_queue
from trainer.disk import says_full
from trainer.errors import DiskFullError, PippaError, StoreError
from trainer.events import Event, WarningEvent
from trainer.hardlink import link_or_copy
from trainer.runner import checkpoint_folder, saved_checkpoint
from trainer.runner.checkpoint_folder import PENDING, Quiet
from trainer.runner.checkpoint_registration import Registration
from trainer.runner.pending_uploads import make_room
from trainer.store.object_store import ObjectStore

POLL_SECONDS = 0.2
QUIET_SECONDS = 5.0
"""An engine that writes in place has finished a checkpoint whose files haven't changed for so long."""
BACKOFF_SECONDS = (0.5, 30.0)


class Uploader:
    """Uploads and registers the checkpoints of one run in the background.

    ``atomic`` says that the engine commits a checkpoint by renaming it into place, and that ``saved`` is called then
    (the native engine); upstream's writes in place. ``foreign`` are steps that lie in ``output_dir`` but are not this
    run's to register, ``registered`` those that are in the registry already.
    """

    def __init__(
        self,
        store: ObjectStore,
        spec: RunSpec,
        output_dir: Path,
        emit: Callable[[Event], None],
        *,
        atomic: bool,
        foreign: Iterable[int] = (),
        registered: Iterable[int] = (),
        quiet_seconds: float = QUIET_SECONDS,
        most_waiting: int | None = None,
    ) -> None:
        self._spec = spec
        self._output_dir = output_dir
        self._emit = emit
        self._atomic = atomic
        self._quiet = Quiet(quiet_seconds)
        self._foreign = set(foreign)
        self._seen: set[int] = {*self._foreign, *registered}
        self._engine_ended = threading.Event()
        self._abandoned = threading.Event()
        self._look_again = threading.Event()
        """Something to do for the thread that takes aside."""
        self._set_aside = threading.Event()
        """Something to do for the thread that uploads."""
        self._progress = time.monotonic()
        self._most_waiting = upload_queue() if most_waiting is None else most_waiting
        self._under_way: int | None = None
        self._registration = Registration(store, spec, emit, self._got_through)
        self.registered = self._registration.steps
        self._retention = self._registration.retention
        self._resumable = False
        self._watched_all = False
        """The watcher ended after the engine, with every whole checkpoint set aside."""
        self.pending_dir = output_dir / PENDING
        self.dropped: list[int] = []
        """Steps that had to make room for later ones, and are in no store."""
        self.gave_up: str = ""
        """Why ``finish`` did not wait any longer."""
        self.unkept: str = ""
        """Why a checkpoint can't be set aside for the time being: this disk is full or in trouble."""
        self.outage: str = ""
        """Why what was set aside can't be uploaded for the time being."""
        self.cure: str = ""
        """What helps against the outage."""
        self._watcher = threading.Thread(target=self._watch, name="checkpoint-watch", daemon=True)
        self._worker = threading.Thread(target=self._work, name="checkpoint-upload", daemon=True)

    def start(self) -> None:
        """Start watching. What an earlier attempt of this run took aside but didn't upload goes first."""
        self._seen.update(checkpoint_folder.checkpoints(self.pending_dir))
        # What the retention has removed from the store lies here still.
        self._seen |= self._retention.surplus({*checkpoint_folder.checkpoints(self._output_dir), *self._seen})
        self._watcher.start()
        self._worker.start()

    def saved(self) -> None:
        """A checkpoint is whole in the output directory."""
        self._look_again.set()

    def finish(
        self,
        patience_seconds: float = 3600,
        stopped: Callable[[], bool] = lambda: False,
        *,
        resumable: bool = False,
    ) -> bool:
        """After the engine's end: upload what is left. Returns whether every whole checkpoint is in the registry.

        ``resumable`` says that the run is not done and may be continued elsewhere: the training state goes up too.

        Gives up when nothing got through for ``patience_seconds`` or when ``stopped()``; nothing is lost then, it lies
        in the output directory, and the next ``trainer run --run-id RUN`` uploads it.
        """
        self._resumable = resumable
        self._engine_ended.set()
        self._look_again.set()
        self._set_aside.set()
        self._progress = time.monotonic()
        while self._worker.is_alive():
            self._worker.join(timeout=0.1)
            late = time.monotonic() - self._progress > patience_seconds
            if stopped() or late:
                self.gave_up = f"nothing got through for {patience_seconds:g} s" if late else "stopped before they were"
                self._abandoned.set()
                self._look_again.set()
                self._worker.join(timeout=5)
                break
        try:
            return self._watched_all and not checkpoint_folder.checkpoints(self.pending_dir)
        except OSError:
            return False

    def waiting(self) -> list[int]:
        """The steps of whole checkpoints that lie on this disk only."""
        try:
            found = {
                *checkpoint_folder.checkpoints(self.pending_dir),
                *(set(checkpoint_folder.checkpoints(self._output_dir)) - self._seen),
            }
        except OSError:
            return []
        return sorted(found - set(self.registered))

    def _watch(self) -> None:
        while True:
            ended = self._engine_ended.is_set()
            if trouble := self._look(ended=ended):
                self._warn_once(self.unkept, trouble)
            self.unkept = trouble
            if ended and not trouble:
                self._watched_all = True
                return
            # What is in the way, a full disk perhaps, goes without a word.
            self._look_again.wait(None if self._atomic and not trouble else POLL_SECONDS)
            self._look_again.clear()
            if self._abandoned.is_set():
                return

    def _look(self, *, ended: bool) -> str:
        """Set aside what is complete. Returns what must be tried again, and why; empty when nothing must."""
        troubles: list[str] = []
        try:
            found = checkpoint_folder.checkpoints(self._output_dir)
        except OSError as error:
            return str(error)
        for step, folder in found.items():
            if step in self._seen:
                continue
            try:
                if self._complete(step, folder, max(found), ended=ended):
                    self._take_aside(step, folder)
            except OSError as error:  # a full disk, a network disk that hiccups
                troubles.append(f"{folder.name} can't be set aside for uploading ({error})")
        return "; ".join(troubles)

    def _complete(self, step: int, folder: Path, newest: int, *, ended: bool) -> bool:
        if not self._atomic and not ended and step == newest and not self._quiet.is_quiet(folder):
            return False
        problem = checkpoint_folder.problem(folder, step)
        if problem and (self._atomic or ended or step < newest) and folder.exists():
            self._seen.add(step)
            self._emit(
                WarningEvent(
                    message=f"{folder.name} is not a whole checkpoint and was not uploaded: {problem}.",
                    hint="The engine was probably stopped while it saved; the checkpoint before it is whole.",
                )
            )
        return problem is None

    def _take_aside(self, step: int, folder: Path) -> None:
        """Link ``folder`` into the pending ones. Raises ``OSError`` when it must be tried again."""
        staging = self.pending_dir / f".{folder.name}"
        shutil.rmtree(staging, ignore_errors=True)
        try:
            shutil.copytree(folder, staging, copy_function=link_or_copy)
            if not self._atomic:
                saved_checkpoint.describe(staging, self._spec)
            staging.rename(self.pending_dir / folder.name)
        except OSError:
            shutil.rmtree(staging, ignore_errors=True)
            if folder.exists():
                raise
            self._emit(WarningEvent(message=f"{folder.name} was deleted before it could be uploaded."))
        self._seen.add(step)
        self._set_aside.set()
        with contextlib.suppress(OSError):  # the disk hiccups; there is a next time
            self._make_room()

    def _make_room(self) -> None:
        for step, why in make_room(
            self.pending_dir, self._output_dir, self._most_waiting, self._retention, lambda: self._under_way
        ):
            self.dropped.append(step)
            self._emit(
                WarningEvent(
                    message=f"checkpoint-{step} was DROPPED and will not be in the object store: {why}.",
                    hint="Later checkpoints are kept. Bring the store back; PIPPA_UPLOAD_QUEUE lets more of them wait.",
                )
            )

    def _work(self) -> None:
        delay = BACKOFF_SECONDS[0]
        while not self._abandoned.is_set():
            # Asked before looking: the watcher's last round may still set something aside.
            over = self._engine_ended.is_set() and not self._watcher.is_alive()
            try:
                waiting = checkpoint_folder.checkpoints(self.pending_dir)
                if waiting:
                    self._upload(*next(iter(waiting.items())))
                elif over:
                    last = (
                        checkpoint_folder.newest(self._output_dir, without=self._foreign) if self._resumable else None
                    )
                    if last is not None:
                        self._registration.keep_training_state(last, self._output_dir / f"checkpoint-{last}")
                    self._registration.thin(now=True)
                    return
                else:
                    # After the engine's end this waits for the other thread's, without a message.
                    self._set_aside.wait(POLL_SECONDS if self._engine_ended.is_set() else None)
                    self._set_aside.clear()
                    continue
            except Exception as error:  # a checkpoint is never given up, whatever went wrong
                reason = str(error).partition("\n")[0]
                self.cure = error.hint if isinstance(error, PippaError) else ""
                self._warn_once(self.outage, reason)
                self.outage = reason
                self._abandoned.wait(delay)
                delay = min(delay * 2, BACKOFF_SECONDS[1])
            else:
                delay = BACKOFF_SECONDS[0]
                self.outage = ""
                self._progress = time.monotonic()
            finally:
                self._under_way = None

    def _upload(self, step: int, folder: Path) -> None:
        self._under_way = step
        added = self._registration.add(step, folder)
        shutil.rmtree(folder)
        if added:
            self._registration.thin()

    def _got_through(self) -> None:
        self._progress = time.monotonic()

    def _warn_once(self, before: str, reason: str) -> None:
        """One warning per outage, however often it is tried again; ``before`` is what was wrong the last time."""
        if not before:
            self._emit(
                WarningEvent(
                    message=f"A checkpoint can't be uploaded yet: {reason}",
                    hint="The training continues; the checkpoint is kept on this disk and tried again until it is in.",
                )
            )


def failure(uploader: Uploader, run_id: str) -> PippaError:
    """The error for a run whose last checkpoints are still on this disk only."""
    reason = uploader.unkept or uploader.outage or uploader.gave_up
    steps = ", ".join(map(str, uploader.waiting()))
    where = uploader.pending_dir.parent if uploader.unkept else uploader.pending_dir
    kind = DiskFullError if says_full(reason) or "is full" in reason else StoreError
    return kind(
        f"Checkpoints of {run_id} could not be uploaded{steps and f' (step {steps})'}: {reason.rstrip('.')}.",
        (f"{uploader.cure}\n" if uploader.outage and uploader.cure else "")
        + f"They are safe in {where}; `trainer run --run-id {run_id}` on this machine uploads them.",
    )
