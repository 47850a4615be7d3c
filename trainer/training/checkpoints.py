"""Checkpoints written to the disk while the training goes on, each one whole or not there.

The training waits only while tensors are copied out of the device. A thread then writes, syncs and renames: writing
releases Python's lock, so that the training is not slowed by it. One checkpoint is under way at a time; a training that
saves faster than the disk writes waits for the one before.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from trainer.failures import disk_full

CHECKPOINTS_KEPT = 5
"""Complete checkpoints kept on disk, as upstream's ``save_total_limit``; the object store keeps them all."""

STAGING = ".saving"
"""Folder in the output directory in which a checkpoint is written."""

_NO_SPACE = 1 << 20
"""Bytes; a disk with less is full, whatever the error says."""


class HostCopies:
    """Copies of tensors in host memory, one per name, whose memory is used again for the next copy.

    Fresh memory costs more than the copying itself: page faults, and on a GPU the pinning, without which the copy takes
    several times as long.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, torch.Tensor] = {}
        self._sources: list[torch.Tensor] = []
        self._targets: list[torch.Tensor] = []

    def take(self, name: str, tree: Any) -> Any:
        """``tree``, a tensor or dictionaries and lists of tensors and plain values, with each tensor copied.

        The copies are there after ``finish``, and until then nothing may change.
        """
        if isinstance(tree, torch.Tensor):
            buffer = self._buffers.get(name)
            if buffer is None or buffer.shape != tree.shape or buffer.dtype != tree.dtype:
                buffer = torch.empty(tree.shape, dtype=tree.dtype, pin_memory=tree.is_cuda)
                self._buffers[name] = buffer
            self._sources.append(tree.detach())
            self._targets.append(buffer)
            return buffer
        if isinstance(tree, dict):
            return {key: self.take(f"{name}/{key}", value) for key, value in tree.items()}
        if isinstance(tree, list | tuple):
            return type(tree)(self.take(f"{name}/{index}", value) for index, value in enumerate(tree))
        return tree

    def finish(self) -> None:
        """Copy all at once, and wait for it: for small tensors a call each takes as long as the copying."""
        if self._targets:
            torch._foreach_copy_(self._targets, self._sources, non_blocking=True)
        self._sources, self._targets = [], []
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()


class CheckpointWriter:
    """Writes the ``checkpoint-<step>`` folders of one output directory, one at a time.

    transformers writes in place, so that a crash while saving leaves a torn folder that ``--resume`` then picks. Here a
    folder gets its name when it is complete and on the disk. Errors of the thread are raised by ``check`` and ``wait``.
    """

    def __init__(self, output_dir: Path) -> None:
        self._output_dir = output_dir
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint-write")
        self._pending: Future[None] | None = None
        self.last: Path | None = None
        """The checkpoint that was committed last."""

    def staged(self, name: str) -> Path:
        """Where ``name`` is put together."""
        return self._output_dir / STAGING / name

    def start(self, name: str, parts: list[Callable[[], None]]) -> None:
        """Carry out ``parts``, each of which writes something into ``staged(name)``, and commit it; in the background.

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
    def explained(self) -> Iterator[None]:
        """Turns what a full disk looks like while saving into ``DiskFullError``, and removes what was half saved.

        safetensors raises an error class of its own, and torch.save one that doesn't mention the disk at all
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

    def _write(self, name: str, parts: list[Callable[[], None]]) -> None:
        staged, final = self.staged(name), self._output_dir / name
        with self.explained():
            for part in parts:
                part()
            _sync(staged)
        staged.rename(final)
        _sync_folder(self._output_dir)
        self.last = final
        with contextlib.suppress(OSError):  # another rank has begun with the next one
            (self._output_dir / STAGING).rmdir()
        self._remove_old()

    def _remove_old(self) -> None:
        steps = sorted(int(path.name.removeprefix("checkpoint-")) for path in self._output_dir.glob("checkpoint-*"))
        for step in steps[:-CHECKPOINTS_KEPT]:
            # Renamed first: a half-deleted checkpoint must not be found by --resume either.
            doomed = self._output_dir / f".removing-{step}"
            (self._output_dir / f"checkpoint-{step}").rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Make ``target`` the same file as ``source``, or a copy where the file system has no hard links."""
    target.parent.mkdir(exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


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
