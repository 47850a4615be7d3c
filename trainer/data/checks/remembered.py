"""The pass over tables and videos, made once: what was found fit is remembered by the content of all that was read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from trainer.config.data_options import DataOptions
from trainer.data.checks.contents import Contents, check_contents, files_of
from trainer.data.configs import DataConfig
from trainer.data.dataset_meta import DatasetMeta
from trainer.data.result_cache import ResultCache, version
from trainer.data.video import DECODER
from trainer.errors import DatasetError

_QUICKLY_HASHED = 256 << 20
"""Bytes worth reading before it is known whether the pass is needed."""
_HERE = "\0"
"""Stands for the dataset's folder."""
_FORM = TypeAdapter(Contents)


def remembered_contents(
    meta: DatasetMeta,
    config: DataConfig,
    *,
    options: DataOptions,
    memory: ResultCache,
    progress: Callable[[int, int], None],
) -> Contents:
    """What ``check_contents`` finds, or found before in the same files."""
    chosen = f"{config!r} {options!r}"
    try:
        files = files_of(meta, config)
        unknown = sum(file.stat().st_size for file in files if not memory.knows(file))
        # Else the pass hashes each file when it reads it anyway.
        kept = memory.get(_key(meta, files, chosen, memory)) if unknown <= _QUICKLY_HASHED else None
        if kept is not None:
            return _moved(_FORM.validate_json(kept), _HERE, str(meta.path))
    except (OSError, DatasetError, ValidationError):
        files = []  # something is missing: the pass says what
    contents = check_contents(meta, config, options=options, memory=memory, progress=progress)
    if files and not contents.problems:
        kept = _FORM.dump_json(_moved(contents, str(meta.path), _HERE))
        memory.put(_key(meta, files, chosen, memory), kept)
    return contents


def _key(meta: DatasetMeta, files: list[Path], chosen: str, memory: ResultCache) -> str:
    """Names a check by all that decides its outcome."""
    listed = [[file.relative_to(meta.path).as_posix(), memory.sha256(file)] for file in files]
    text = json.dumps([version(), DECODER, chosen, listed])
    return f"check {hashlib.sha256(text.encode()).hexdigest()}"


def _moved(contents: Contents, folder: str, into: str) -> Contents:
    """With the files in its warnings named in another folder: the same content may lie in several."""
    moved = [each._replace(message=each.message.replace(f"{folder}/", f"{into}/")) for each in contents.warnings]
    return contents._replace(warnings=moved)
