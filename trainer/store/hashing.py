"""SHA-256 of a file and of its parts, in one reading."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

PART_BYTES = 16 << 20
"""Size of a part of a multipart upload."""
MAX_PARTS = 9_000
"""S3 allows 10,000 parts; larger files get larger parts."""


@dataclass(frozen=True, slots=True)
class Hashed:
    """What a file held when it was read."""

    size: int
    sha256: str
    part_bytes: int
    parts: tuple[str, ...]
    """SHA-256 of each ``part_bytes`` of it; at least one, that of nothing for an empty file."""
    modified_ns: int
    """When the file was written last, as the file system tells."""


def hash_file(path: Path) -> Hashed:
    """Read and hash a file. A part's hash goes along when it is sent, and the server holds the part against it."""
    whole, parts, size = hashlib.sha256(), [], 0
    with path.open("rb", buffering=0) as file, ThreadPoolExecutor(1, "pippa-hash") as beside:
        found = os.fstat(file.fileno())
        expected = found.st_size
        part_bytes = max(PART_BYTES, -(-expected // MAX_PARTS))
        # Asking for a byte more than there should be costs nothing and tells of a file that grows.
        while part := _read(file.fileno(), min(part_bytes, max(expected - size, 0) + 1), size):
            # Hashing releases Python's lock: both run at once. The only part of a small file has the hash of the whole.
            last = len(part) < part_bytes
            digest = None if last and not parts else beside.submit(_digest, part)
            whole.update(part)
            parts.append(whole.hexdigest() if digest is None else digest.result())
            size += len(part)
            if last:
                break
    return Hashed(size, whole.hexdigest(), part_bytes, tuple(parts) or (whole.hexdigest(),), found.st_mtime_ns)


class HashCache:
    """Hashes of files that are pushed again, under another name or after a while; safe to use from several threads.

    A file that was written since has another time or another inode, and is read again.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, int, int], Hashed] = {}

    def __call__(self, path: Path) -> Hashed:
        """What ``hash_file`` says of a file."""
        found = path.stat()
        key = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
        hashed = self._known.get(key)
        if hashed is None:
            hashed = hash_file(path)
            if (hashed.size, hashed.modified_ns) == key[2:]:
                self._known[key] = hashed
        return hashed


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read(descriptor: int, size: int, offset: int) -> bytes:
    """Up to ``size`` bytes; fewer only at the file's end."""
    content = os.pread(descriptor, size, offset)
    while 0 < len(content) < size and (more := os.pread(descriptor, size - len(content), offset + len(content))):
        content += more
    return content
