"""Checkpoints that wait on the disk for the object store: as many as there is room for."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from trainer.disk import size_of
from trainer.runner import checkpoint_folder
from trainer.store.retention import Retention


def make_room(
    pending: Path, output_dir: Path, most: int, retention: Retention, busy: Callable[[], int | None]
) -> Iterator[tuple[int, str]]:
    """Drop checkpoints while more than ``most`` are nowhere but here, or the disk has no room for two more; yields each
    and why.

    Those go first that ``retention`` would not keep, then the oldest; never the newest, and not ``busy()``, which is
    being uploaded. Raises ``OSError`` as listing the folder does.
    """
    while waiting := checkpoint_folder.checkpoints(pending):
        newest = max(waiting)
        # A link to what the engine still keeps costs nothing.
        alone = [step for step in waiting if not (output_dir / waiting[step].name).exists()]
        if len(alone) > most:
            why = f"{len(alone)} wait for the object store"
        elif shutil.disk_usage(pending).free < 2 * size_of(waiting[newest]):
            why = "this disk is nearly full"
        else:
            return
        candidates = [step for step in alone if step not in (newest, busy())]
        if not candidates:
            return
        surplus = retention.surplus(waiting)
        step = min(candidates, key=lambda step: (step not in surplus, step))
        try:
            doomed = waiting[step].rename(pending / f".dropped-{step}")
        except FileNotFoundError:  # uploaded meanwhile
            continue
        shutil.rmtree(doomed, ignore_errors=True)
        yield step, why
