"""The output directory of an engine: which checkpoints lie there, and whether one is whole."""

from __future__ import annotations

import json
import os
import re
import time
import zipfile
from collections.abc import Collection
from pathlib import Path

from trainer.gr00t.weight_files import weights_problem

PENDING = "pending-uploads"
"""Folder inside the output directory, so that hard links work, for checkpoints that are not yet registered."""

_NAME = re.compile(r"checkpoint-(\d+)")
_NOT_AS_SAVED = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
"""What the file system says of a folder that lacks something, unlike a disk in trouble."""


def checkpoints(output_dir: Path) -> dict[int, Path]:
    """The ``checkpoint-<step>`` folders in ``output_dir`` by step, lowest first, whole or not."""
    try:
        entries = list(os.scandir(output_dir))
    except FileNotFoundError:
        return {}
    found = {int(match[1]): Path(entry.path) for entry in entries if (match := _NAME.fullmatch(entry.name))}
    return dict(sorted(found.items()))


def problem(folder: Path, step: int) -> str | None:
    """Why ``folder`` is not a whole checkpoint of ``step``, or None when it is.

    Reads a few kilobytes: the trainer state, the index of the shards, and the header of each safetensors file, whose
    offsets tell how long the file must be. Upstream's engines write in place, without any marker of completeness.
    Raises ``OSError`` when the disk doesn't let it be read, which says nothing about the checkpoint.
    """
    try:
        state = json.loads((folder / "trainer_state.json").read_text())
        if state.get("global_step") != step:
            return f"trainer_state.json is of step {state.get('global_step')}"
        return weights_problem(folder)
    except (*_NOT_AS_SAVED, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"


def resume_problem(folder: Path, step: int) -> str | None:
    """Why a training can't continue from ``folder``, or None when it can.

    A whole checkpoint also needs the state of the optimizer, the scheduler and the random numbers: without one of them
    transformers takes fresh ones, without a word. They are zip archives, which end with their table of contents.
    Raises ``OSError`` as ``problem`` does.
    """
    if found := problem(folder, step):
        return found
    states = [folder / "optimizer.pt", folder / "scheduler.pt", *sorted(folder.glob("rng_state*.pth"))]
    if len(states) == 2:
        return "rng_state.pth is missing"
    for file in states:
        try:
            with zipfile.ZipFile(file):
                pass
        except FileNotFoundError:
            return f"{file.name} is missing"
        except (zipfile.BadZipFile, *_NOT_AS_SAVED):
            return f"{file.name} is cut off or damaged"
    return None


def newest(output_dir: Path, without: Collection[int] = ()) -> int | None:
    """The step of the newest whole checkpoint in ``output_dir``, leaving out the steps in ``without``.

    Raises ``OSError`` as ``problem`` does.
    """
    for step, folder in reversed(checkpoints(output_dir).items()):
        if step not in without and problem(folder, step) is None:
            return step
    return None


class Quiet:
    """Whether an engine that writes in place has finished a checkpoint: no file has changed for ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._seen: dict[Path, tuple[object, float]] = {}

    def is_quiet(self, folder: Path) -> bool:
        """As seen since this was asked first."""
        signature = tuple(
            (str(file), stat.st_size, stat.st_mtime_ns)
            for file in sorted(folder.rglob("*"))
            if (stat := _stat(file)) is not None
        )
        now = time.monotonic()
        before, since = self._seen.get(folder, (None, now))
        if signature != before:
            self._seen[folder] = (signature, now)
            return False
        return now - since >= self._seconds


def _stat(file: Path) -> os.stat_result | None:
    try:
        return file.stat()
    except FileNotFoundError:
        return None
