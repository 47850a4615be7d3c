"""Checkpoints on their way into the object store, while the training continues.

One thread takes every complete ``checkpoint-<step>`` of the engine's output directory aside by hard links, so that the
engine may delete it (``save_total_limit``) before it is uploaded. The native engine says when there is one; for
upstream's, which do not, the thread looks. Another uploads what was taken aside, lowest step first, and registers it.
The training waits for neither; the store may be down for as long as it likes.

Training state goes up apart and less often (``resume_points``): with AdamW it is two thirds of what a checkpoint adds,
and of use only while the run is not done.

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
from trainer.errors import DamagedObjectError, DiskFullError, PippaError, StoreError
from trainer.events import CheckpointEvent, Event, WarningEvent
from trainer.hardlink import link_or_copy
from trainer.runner import checkpoint_folder, saved_checkpoint
from trainer.runner.checkpoint_folder import PENDING, Quiet
from trainer.runner.pending_uploads import make_room
from trainer.store import gc, gc_roots, registry, resume_points, snapshots
from trainer.store.hashing import HashCache
from trainer.store.object_store import ObjectStore
from trainer.store.retention import Retention

POLL_SECONDS = 0.2
QUIET_SECONDS = 5.0
"""An engine that writes in place has finished a checkpoint whose files haven't changed for so long."""
BACKOFF_SECONDS = (0.5, 30.0)
STATE_PAUSE = 10
"""After training state was sent, or old checkpoints removed, it isn't done again for so many times as it took."""


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
        self._store = store
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
        self._furthest = 0
        """Bytes of the push under way that got through in its best attempt."""
        self._most_waiting = upload_queue() if most_waiting is None else most_waiting
        self._under_way: int | None = None
        self._retention = Retention(spec.config.keep_last or None, spec.config.keep_every or None)
        self._memory = gc_roots.ReadCache()
        self._thin_after = 0.0
        self._thinning_failed = ""
        self._hashes = HashCache()
        self._resumable = False
        self._state_sent = time.monotonic()
        self._state_seconds: float | None = None
        """What sending the training state takes; None before it is known."""
        self._watched_all = False
        """The watcher ended after the engine, with every whole checkpoint set aside."""
        self.pending_dir = output_dir / PENDING
        self.registered: list[int] = []
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
                        self._keep_resumable(last, self._output_dir / f"checkpoint-{last}")
                    self._thin(now=True)
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
        if step not in self.registered and not self._register(step, folder):
            shutil.rmtree(folder)
            return
        if self._state_seconds is not None and time.monotonic() > self._state_sent + STATE_PAUSE * self._state_seconds:
            try:
                self._keep_resumable(step, folder)
            except Exception as error:  # it must not hold up the checkpoints that follow
                self._state_sent = time.monotonic()
                reason = str(error).partition("\n")[0]
                self._emit(
                    WarningEvent(
                        message=f"The training state of step {step} could not be kept in the store: {reason}",
                        hint="The checkpoint is there. Until it works, only this machine can continue from here.",
                    )
                )
        shutil.rmtree(folder)
        self._thin()

    def _thin(self, *, now: bool = False) -> None:
        """Remove what the run's retention doesn't keep. It must not hold up the checkpoints that follow."""
        if self._retention == Retention() or (time.monotonic() < self._thin_after and not now):
            return
        started = time.monotonic()
        reason = ""
        try:
            found = gc.thin(self._store, self._spec.run_id, self._retention, self._memory)
            reason = " ".join(found.withheld)
        except Exception as error:
            reason = str(error).partition("\n")[0]
        if reason and not self._thinning_failed:
            hint = "They are tried again with each checkpoint; `pippa store check` lists what is damaged."
            self._emit(WarningEvent(message=f"Old checkpoints could not be removed: {reason}", hint=hint))
        self._thinning_failed = reason
        self._thin_after = time.monotonic() + STATE_PAUSE * (time.monotonic() - started)

    def _register(self, step: int, folder: Path) -> bool:
        """Upload and register a checkpoint; False when another one is registered as this step."""
        started = time.monotonic()
        spec = self._spec
        pushed = self._push(step, folder, spec.run_id, resume_points.is_training_state)
        try:
            known = registry.find(self._store, spec.run_id, step)
        except DamagedObjectError:  # registering replaces it
            known = None
        if known is not None and known.snapshot.digest != pushed.ref.digest:
            # Another machine continued the run from an earlier step; trying again would never help.
            self._emit(WarningEvent(message=f"Step {step} was not registered again: another content is registered."))
            return False
        # Also moves the aliases `latest` and `<preset>/latest`.
        registry.register(
            self._store,
            registry.CheckpointEntry(
                run_id=spec.run_id,
                step=step,
                snapshot=pushed.ref,
                spec=spec,
                wandb_run=spec.wandb_run,
                held_out=saved_checkpoint.held_out(folder),
                metrics=saved_checkpoint.loss(folder),
            ),
        )
        self.registered.append(step)
        seconds = time.monotonic() - started
        if self._state_seconds is None:
            speed = max(pushed.bytes_uploaded, 1) / seconds
            self._state_seconds = saved_checkpoint.training_state_bytes(folder) / speed
        self._emit(
            CheckpointEvent(
                step=step, digest=pushed.ref.digest, bytes_uploaded=pushed.bytes_uploaded, seconds=round(seconds, 3)
            )
        )
        return True

    def _keep_resumable(self, step: int, folder: Path) -> None:
        """Make ``step`` the one from which another machine continues the run."""
        run_id = self._spec.run_id
        before = resume_points.read(self._store, run_id)
        if before is not None and before.step >= step:
            return
        started = time.monotonic()
        pushed = self._push(step, folder, resume_points.snapshot_name(run_id), like=run_id)
        resume_points.move(self._store, run_id, resume_points.ResumePoint(step=step, snapshot=pushed.ref))
        self._state_sent = time.monotonic()
        self._state_seconds = self._state_sent - started

    def _push(
        self,
        step: int,
        folder: Path,
        name: str,
        ignore: Callable[[str], bool] | None = None,
        like: str | None = None,
    ) -> snapshots.PushResult:
        pushed = snapshots.push(
            self._store,
            folder,
            "checkpoint",
            name,
            origin={"run_id": self._spec.run_id, "step": str(step)},
            progress=self._advanced,
            ignore=ignore,
            hash_file=self._hashes,
            like=like,
        )
        self._furthest = 0
        return pushed

    def _advanced(self, done: int, _: int) -> None:
        """Something got through; what an earlier attempt had got through is no progress."""
        if done > self._furthest:
            self._furthest = done
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
