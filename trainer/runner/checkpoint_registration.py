"""A run's checkpoints in the store: each is uploaded and registered, its training state kept, old ones removed.

Training state goes up apart and less often (``resume_points``): with AdamW it is two thirds of what a checkpoint adds,
and of use only while the run is not done.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from trainer.config.run_spec import RunSpec
from trainer.errors import DamagedObjectError
from trainer.events import CheckpointEvent, Event, WarningEvent
from trainer.runner import saved_checkpoint
from trainer.store import gc, gc_roots, registry, resume_points, snapshots
from trainer.store.hashing import HashCache
from trainer.store.object_store import ObjectStore
from trainer.store.retention import Retention

STATE_PAUSE = 10
"""After training state was sent, or old checkpoints removed, it isn't done again for so many times as it took."""


class Registration:
    """Registers the checkpoints of one run, one after the other. ``got_through`` hears that an upload makes headway."""

    def __init__(
        self, store: ObjectStore, spec: RunSpec, emit: Callable[[Event], None], got_through: Callable[[], None]
    ) -> None:
        self._store = store
        self._spec = spec
        self._emit = emit
        self._got_through = got_through
        self.steps: list[int] = []
        """Those that were registered here."""
        self.retention = Retention(spec.config.keep_last or None, spec.config.keep_every or None)
        self._memory = gc_roots.ReadCache()
        self._thin_after = 0.0
        self._thinning_failed = ""
        self._hashes = HashCache()
        self._furthest = 0
        """Bytes of the push under way that got through in its best attempt."""
        self._state_sent = time.monotonic()
        self._state_seconds: float | None = None
        """What sending the training state takes; None before it is known."""

    def add(self, step: int, folder: Path) -> bool:
        """Upload and register a checkpoint, and its training state where that is due; False when another one is
        registered as this step.
        """
        if step not in self.steps and not self._register(step, folder):
            return False
        if self._state_seconds is not None and time.monotonic() > self._state_sent + STATE_PAUSE * self._state_seconds:
            try:
                self.keep_training_state(step, folder)
            except Exception as error:  # it must not hold up the checkpoints that follow
                self._state_sent = time.monotonic()
                reason = str(error).partition("\n")[0]
                self._emit(
                    WarningEvent(
                        message=f"The training state of step {step} could not be kept in the store: {reason}",
                        hint="The checkpoint is there. Until it works, only this machine can continue from here.",
                    )
                )
        return True

    def keep_training_state(self, step: int, folder: Path) -> None:
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

    def thin(self, *, now: bool = False) -> None:
        """Remove what the run's retention doesn't keep. It must not hold up the checkpoints that follow."""
        if self.retention == Retention() or (time.monotonic() < self._thin_after and not now):
            return
        started = time.monotonic()
        reason = ""
        try:
            found = gc.thin(self._store, self._spec.run_id, self.retention, self._memory)
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
        self.steps.append(step)
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
            self._got_through()
