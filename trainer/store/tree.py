"""The local folder of a snapshot: what is in it, and whether it is what was pulled."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer.errors import UsageError
from trainer.store.manifest import Manifest


@dataclass(frozen=True)
class LocalFile:
    """A file to push: its path in the snapshot, and where it lies."""

    path: str
    source: Path
    size: int


def scan(folder: Path, ignore: Callable[[str], bool] | None = None) -> list[LocalFile]:
    """The files under ``folder``, sorted by path. ``ignore`` gets each POSIX path, of folders too.

    A link to a file counts as that file, as in Hugging Face's cache. Empty folders are not kept. Raises ``UsageError``
    for what can't be kept: links to folders or to nothing, devices and pipes, names that are not UTF-8.
    """
    if not folder.is_dir():
        raise UsageError(f"There is no folder {folder}.", "Check the path.")
    return sorted(_walk(folder, "", ignore), key=lambda file: file.path)


def _walk(folder: Path, prefix: str, ignore: Callable[[str], bool] | None) -> Iterator[LocalFile]:
    with os.scandir(folder) as entries:
        for entry in entries:
            path = prefix + entry.name
            if ignore is not None and ignore(path):
                continue
            try:
                path.encode()
            except UnicodeEncodeError:
                raise UsageError(f"The name {entry.path!r} is not valid UTF-8.", "Rename it.") from None
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path), f"{path}/", ignore)
                continue
            try:
                found = entry.stat()
            except OSError as error:
                raise UsageError(
                    f"Can't read {entry.path}: {error.strerror}.", "Delete it, or repair what it links to."
                ) from None
            if not stat.S_ISREG(found.st_mode):
                kind = "a link to a folder" if stat.S_ISDIR(found.st_mode) else "not a regular file"
                raise UsageError(f"{entry.path} is {kind}; a snapshot holds files only.", "Replace it by a copy.")
            yield LocalFile(path, Path(entry.path), found.st_size)


def differences(manifest: Manifest, folder: Path) -> list[str]:
    """Files that are missing in ``folder`` or have another size; more files than the manifest's don't matter."""
    found = []
    for file in manifest.files:
        try:
            same = (folder / file.path).stat().st_size == file.size
        except OSError:
            same = False
        if not same:
            found.append(file.path)
    return found
