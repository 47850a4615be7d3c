"""Checkpoints written to the disk while the training continues, each one whole or not there.

The training does not wait while tensors are copied (``trainer.training.host_copies``). A thread then writes, syncs and
renames: writing releases Python's lock, so that the training is not slowed by it. One checkpoint is under way at a
time; a training that saves faster than the disk writes waits for the one before.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from trainer.config.finetune_config import CHECKPOINTS_KEPT
from trainer.disk import disk_full
from trainer.gr00t.weight_files import ADAPTER
from trainer.hardlink import link_or_copy

STAGING = ".saving"
"""Folder in the output directory in which a checkpoint is written."""

_NO_SPACE = 1 << 20
"""Bytes; a disk with less is full, whatever the error says."""


class CheckpointWriter:
    """Writes the ``checkpoint-<step>`` folders of one output directory, one at a time.

    transformers writes in place, so that a crash while saving leaves a torn folder that ``--resume`` then picks. Here a
    folder gets its name when it is complete and on the disk, and ``committed`` hears of its step. Errors of the thread
    are raised by ``check`` and ``wait``.
    """

    def __init__(
        self,
        output_dir: Path,
        committed: Callable[[int], object] = lambda _: None,
        kept: int = CHECKPOINTS_KEPT,
    ) -> None:
        self._output_dir = output_dir
        self._kept = kept
        self._committed = committed
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint-write")
        self._pending: Future[None] | None = None
        self.last: Path | None = None
        """The checkpoint that was committed last."""

    def staged(self, name: str) -> Path:
        """Where ``name`` is put together."""
        return self._output_dir / STAGING / name

    def start(self, name: str, parts: list[Callable[[], object]]) -> None:
        """Run ``parts``, each of which writes something into ``staged(name)``, and commit it; in the background.

        What they read must not change until then.
        """
        self.wait()
        self._pending = self._thread.submit(self._write, name, parts)

    def wait(self) -> None:
        """Wait for the checkpoint under way. Raises what went wrong with it, ``DiskFullError`` for a full disk."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def check(self) -> None:
        """Raise what went wrong with the checkpoint under way, if something has."""
        if self._pending is not None and self._pending.done():
            self.wait()

    @contextlib.contextmanager
    def explained(self) -> Generator[None]:
        """Turns what a full disk looks like while saving into ``DiskFullError``, and removes what was half saved.

        safetensors raises its own error class, and torch.save one that doesn't mention the disk at all
        ("unexpected pos 576 vs 534"), so that only the free space tells.
        """
        try:
            yield
        except Exception as error:
            full = "No space left on device" in str(error) or shutil.disk_usage(self._output_dir).free < _NO_SPACE
            shutil.rmtree(self._output_dir / STAGING, ignore_errors=True)
            if full:
                raise disk_full(self._output_dir) from error
            raise

    def _write(self, name: str, parts: list[Callable[[], object]]) -> None:
        staged, final = self.staged(name), self._output_dir / name
        with self.explained():
            for part in parts:
                part()
            _sync(staged)
        staged.rename(final)
        _sync_folder(self._output_dir)
        self.last = final
        self._committed(int(name.removeprefix("checkpoint-")))
        with contextlib.suppress(OSError):  # another rank has begun with the next one
            (self._output_dir / STAGING).rmdir()
        self._remove_old()

    def _remove_old(self) -> None:
        steps = sorted(int(path.name.removeprefix("checkpoint-")) for path in self._output_dir.glob("checkpoint-*"))
        for step in steps[: -self._kept]:
            # Renamed first: a half-deleted checkpoint must not be found by --resume either.
            doomed = self._output_dir / f".removing-{step}"
            (self._output_dir / f"checkpoint-{step}").rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)


def saved_by(checkpoint: Path) -> int:
    """How many processes trained what is in ``checkpoint``; 0 where it does not say."""
    return len(list(checkpoint.glob("rng_state*.pth")))


def leave_final_model(output_dir: Path, last: Path) -> None:
    """Leave the model of the last checkpoint in the output folder itself, where upstream leaves it.

    The files are hard links where the file system has them: no second copy.
    """
    for file in (*last.iterdir(), *last.glob(f"{ADAPTER}/*")):
        if file.is_file() and file.suffix in {".json", ".safetensors"}:
            target = output_dir / file.relative_to(last)
            target.parent.mkdir(exist_ok=True)
            link_or_copy(file, target)


def _sync(folder: Path) -> None:
    """Push every file of ``folder`` to the disk, so that the rename can't overtake the contents."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
