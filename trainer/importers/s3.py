"""Prefixes of other S3 buckets: resumed, verified by size and by the MD5 an ETag is for objects sent in one part."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from trainer.config.settings import S3Settings, secret_from
from trainer.disk import require_space
from trainer.errors import StoreError, UsageError
from trainer.importers.downloads import ANOTHER_DISK, Log, Report, watched
from trainer.importers.names import S3Prefix
from trainer.store.object_store import ObjectInfo, ObjectStore
from trainer.store.parallel import for_each
from trainer.store.s3 import S3Store

DOWNLOADS = 8
_MD5 = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Listing:
    """What lay under a prefix at one moment."""

    bucket: S3Store
    files: dict[str, ObjectInfo]
    """By path under the prefix."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())

    @property
    def revision(self) -> str:
        """Hash of paths, sizes and ETags: the same as long as nothing was written."""
        rows = [f"{path}\0{file.size}\0{file.etag}\n" for path, file in sorted(self.files.items())]
        return hashlib.sha256("".join(rows).encode()).hexdigest()


def settings_for(source: S3Prefix, store: ObjectStore, environ: Mapping[str, str] = os.environ) -> S3Settings:
    """How to reach the bucket: the object store's server and keys, unless ``PIPPA_SOURCE_S3_*`` name others.

    Raises ``UsageError`` for another server that has no separate keys, as the object store's are never sent to it, and
    where the object store is a folder and no server is named.
    """
    endpoint = environ.get("PIPPA_SOURCE_S3_ENDPOINT") or ""
    access_key = secret_from(environ, "PIPPA_SOURCE_S3_ACCESS_KEY")
    secret_key = secret_from(environ, "PIPPA_SOURCE_S3_SECRET_KEY")
    region = environ.get("PIPPA_SOURCE_S3_REGION")
    if endpoint and (urlsplit(endpoint).scheme not in ("http", "https") or not urlsplit(endpoint).netloc):
        raise UsageError(
            f"PIPPA_SOURCE_S3_ENDPOINT is {endpoint!r}, not the URL of an S3 endpoint.",
            "Set it to one, such as https://s3.eu-central-1.amazonaws.com.",
        )
    if bool(access_key) != bool(secret_key) or (endpoint and not access_key):
        raise UsageError(
            f"No keys for {source.url}{f' at {endpoint}' if endpoint else ''}.",
            "Set both PIPPA_SOURCE_S3_ACCESS_KEY and PIPPA_SOURCE_S3_SECRET_KEY (or …_FILE with the path of a secret).",
        )
    if endpoint:
        server = S3Settings(endpoint=endpoint.rstrip("/"), access_key=SecretStr(""), secret_key=SecretStr(""))
    elif isinstance(store, S3Store):
        server = store.settings
    else:
        raise UsageError(
            f"{source.url}: on which server? The object store is a folder, and PIPPA_SOURCE_S3_ENDPOINT is not set.",
            "Set PIPPA_SOURCE_S3_ENDPOINT, PIPPA_SOURCE_S3_ACCESS_KEY and PIPPA_SOURCE_S3_SECRET_KEY.",
        )
    given: dict[str, object] = {"bucket": source.bucket}
    if access_key and secret_key:
        given |= {"access_key": SecretStr(access_key), "secret_key": SecretStr(secret_key)}
    if region:
        given["region"] = region
    return server.model_copy(update=given)


def listing(source: S3Prefix, settings: S3Settings) -> Listing:
    """What lies under the prefix now. Raises ``StoreError``, and ``UsageError`` when that is nothing."""
    bucket = S3Store(settings)
    prefix = f"{source.prefix}/" if source.prefix else ""
    files = {found.key.removeprefix(prefix): found for found in bucket.list(prefix)}
    if not files:
        raise UsageError(
            f"There is nothing under {source.url} at {settings.endpoint}.",
            "Check the spelling. PIPPA_SOURCE_S3_ENDPOINT and its keys name another server than the object store's.",
        )
    for path in files:
        if "\0" in path or any(part in ("", ".", "..") for part in path.split("/")):
            raise UsageError(
                f"The key {prefix}{path} in {source.bucket} can't be a file's path.", "Rename that object."
            )
    return Listing(bucket, files)


def download(source: S3Prefix, found: Listing, folder: Path, log: Log, report: Report | None) -> None:
    """Fetch ``found`` into ``folder``; objects that are there already are not fetched again.

    Raises ``StoreError`` when an object does not arrive as its server says it is, ``DiskFullError``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.rglob("*"):
        # What a killed download was writing.
        if file.is_file() and file.relative_to(folder).as_posix() not in found.files:
            file.unlink()
    require_space(folder, found.size, source.url, ANOTHER_DISK)
    log(f"Downloading {source.url}: {len(found.files)} files, {found.size / 1e6:,.1f} MB.")

    def fetch(path: str) -> None:
        file, target = found.files[path], folder / path
        if _is(file, target):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(2):
            found.bucket.get_file(file.key, target)
            if _is(file, target) or (target.stat().st_size == file.size and found.bucket.is_encrypted(file.key)):
                return
        target.unlink()
        raise StoreError(
            f"{file.key} in {source.bucket} does not arrive as the server lists it (size or MD5).",
            "Does something write to it? Try again when it is done.",
        )

    with watched(folder, source.url, found.size, log, report):
        for_each(fetch, found.files, workers=DOWNLOADS)


def _is(file: ObjectInfo, target: Path) -> bool:
    if not target.is_file() or target.stat().st_size != file.size:
        return False
    if not _MD5.fullmatch(file.etag):
        return True
    with target.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == file.etag
