"""The local folder of a snapshot: what is in it, and whether it is what was pulled."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer.errors import UsageError
from trainer.store.manifest import Manifest


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file to push: its path in the snapshot, and where it lies."""

    path: str
    source: Path
    size: int


def scan(folder: Path, ignore: Callable[[str], bool] | None = None, links_into: Path | None = None) -> list[LocalFile]:
    """The files under ``folder``, sorted by path. ``ignore`` gets each POSIX path, of folders too.

    A link to a file of the folder counts as that file; so does one into ``links_into`` or, as in Hugging Face's cache,
    from ``snapshots/COMMIT`` into ``blobs``. Any other could expose another file of this machine. Empty
    folders are not kept. Raises ``UsageError`` for what can't be kept: other links, devices and pipes, names that are
    not UTF-8.
    """
    if not folder.is_dir():
        raise UsageError(f"There is no folder {folder}.", "Check the path.")
    homes = [home for root in (folder, links_into) if root is not None for home in _homes(root.resolve())]
    return sorted(_walk(folder, "", ignore, homes), key=lambda file: file.path)


def _homes(folder: Path) -> list[Path]:
    """Where files of ``folder`` may really lie."""
    return [folder, folder.parent.parent / "blobs"] if folder.parent.name == "snapshots" else [folder]


def _walk(folder: Path, prefix: str, ignore: Callable[[str], bool] | None, homes: list[Path]) -> Iterator[LocalFile]:
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
                yield from _walk(Path(entry.path), f"{path}/", ignore, homes)
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
            if entry.is_symlink() and not any(Path(entry.path).resolve().is_relative_to(home) for home in homes):
                raise UsageError(
                    f"{entry.path} is a link out of the folder, to {Path(entry.path).resolve()}.",
                    "Replace it by a copy; `cp -rL FOLDER COPY` does so with all links.",
                )
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
