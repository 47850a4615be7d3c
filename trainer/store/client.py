"""``ObjectStore``: the few S3 calls pippa makes, with retries, and with errors that say what to do.

Only calls that MinIO and SeaweedFS both honour are used. A failed request is repeated with growing pauses while it may
heal (connection refused or reset, 429, 5xx, SlowDown); what can't heal is a ``StoreError`` at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.errors import StoreError
from trainer.settings import StoreSettings
from trainer.store.failures import TRANSIENT, MissingObjectError, explained

if TYPE_CHECKING:
    import urllib3
    from minio import Minio

CHUNK_BYTES = 1 << 20
PART_BYTES = 16 << 20
"""Size of a part of a multipart upload, and so what one upload holds in memory."""
MOST_PARTS = 9_000
"""S3 allows 10,000 parts; larger files get larger parts."""
CONNECTIONS = 16
CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0


@dataclass(frozen=True)
class ObjectInfo:
    """One object of a listing. ``modified`` is the server's time, ``etag`` what it says of the content, unquoted."""

    key: str
    size: int
    modified: datetime
    etag: str = ""


class ObjectStore:
    """One bucket of an S3 server. Making one sends no request; safe to use from several threads.

    Every method raises ``StoreError`` when the server can't be reached, refuses the keys, lacks the bucket or is full.
    ``patience`` is about how long, in seconds, a request that may heal is repeated before that.
    """

    def __init__(self, settings: StoreSettings, *, patience: float = 20.0, read_seconds: float = READ_SECONDS) -> None:
        self.settings = settings
        self.patience = patience
        self._read_seconds = read_seconds

    def __repr__(self) -> str:
        return f"ObjectStore({self.settings.endpoint}, bucket {self.settings.bucket!r})"

    @cached_property
    def _http(self) -> urllib3.PoolManager:
        import certifi
        import urllib3

        # urllib3 waits 0, 2f, 4f, 8f … seconds, each at most backoff_max.
        factor, longest, total, pauses = 0.2, 5.0, 0, 0.0
        while pauses < self.patience:
            total += 1
            pauses += min(longest, factor * 2**total)
        retries = urllib3.Retry(
            total=total,
            # A request that was sent and never answered costs read_seconds each time. Not fewer: each pooled connection
            # to a server that was restarted breaks once.
            read=min(total, 5),
            backoff_factor=factor,
            backoff_max=longest,
            backoff_jitter=factor if total else 0.0,
            status_forcelist=TRANSIENT,
            allowed_methods=None,  # each of our requests may be repeated, POST (multipart) too
            raise_on_status=False,
            redirect=False,
        )
        return urllib3.PoolManager(
            maxsize=CONNECTIONS,
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=self._read_seconds),
            retries=retries,
            cert_reqs="CERT_REQUIRED",
            ca_certs=os.environ.get("SSL_CERT_FILE") or certifi.where(),
        )

    @cached_property
    def _client(self) -> Minio:
        # The SDK takes a third of a second to import; commands that never ask the store don't pay it.
        from minio import Minio

        # It warns of each repeated request, on stderr when nobody configured logging; the last failure is ours to tell.
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
        return Minio(
            self.settings.host,
            access_key=self.settings.access_key.get_secret_value(),
            secret_key=self.settings.secret_key.get_secret_value(),
            secure=self.settings.secure,
            region=self.settings.region,
            http_client=self._http,
        )

    def impatient(self) -> ObjectStore:
        """The same store for requests that must be over soon: no repeats, and an answer within 20 s."""
        return ObjectStore(self.settings, patience=0.0, read_seconds=20.0)

    def ensure_bucket(self) -> None:
        """Create the bucket unless it exists."""
        with self._explained("create the bucket"):
            if self._client.bucket_exists(self.settings.bucket):
                return
            try:
                self._client.make_bucket(self.settings.bucket, location=self.settings.region)
            except Exception as error:
                # Somebody else created it in between.
                if getattr(error, "code", "") not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                    raise

    def exists(self, key: str) -> bool:
        """Whether there is an object ``key``."""
        return self.info(key) is not None

    def size(self, key: str) -> int | None:
        """Size of an object in bytes; None when there is none."""
        info = self.info(key)
        return None if info is None else info.size

    def info(self, key: str) -> ObjectInfo | None:
        """Size and time of an object; None when there is none."""
        try:
            with self._explained("look up", key):
                found = self._client.stat_object(self.settings.bucket, key)
        except MissingObjectError:
            return None
        if found.size is None or found.last_modified is None:
            raise StoreError(f"{self.settings.endpoint} gave no size or time for {key}.", "Is it an S3 store?")
        return ObjectInfo(key, found.size, found.last_modified, found.etag or "")

    def is_encrypted(self, key: str) -> bool:
        """Whether the server encrypts an object with a key of its own, so that its ETag is no MD5 of the content."""
        with self._explained("look up", key):
            headers = self._client.stat_object(self.settings.bucket, key).metadata or {}
        return any(name.lower().startswith("x-amz-server-side-encryption") for name in headers)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose key begins with ``prefix``, in the order of their keys."""
        with self._explained("list", prefix):
            for found in self._client.list_objects(self.settings.bucket, prefix=prefix, recursive=True):
                # A server with folders (SeaweedFS) may list them, or files it made of itself, as keys ending in "/".
                if found.object_name and not found.object_name.endswith("/") and found.last_modified:
                    yield ObjectInfo(found.object_name, found.size or 0, found.last_modified, found.etag or "")

    def read_bytes(self, key: str) -> bytes | None:
        """An object's content; None when there is none. For small objects."""
        try:
            return b"".join(self.stream(key))
        except MissingObjectError:
            return None

    def write_bytes(self, key: str, content: bytes, *, if_absent: bool = False) -> bool:
        """Write a small object in one step. With ``if_absent``, return False when another content was there already.

        Of several writers with ``if_absent`` exactly one content wins, whatever their number.
        """
        if if_absent:
            return self._create(key, content)
        with self._explained("write", key):
            self._client.put_object(self.settings.bucket, key, io.BytesIO(content), len(content))
        return True

    def read_json(self, key: str) -> Any | None:
        """The document in an object; None when there is no object. Raises ``StoreError`` when it isn't JSON."""
        content = self.read_bytes(key)
        if content is None:
            return None
        try:
            return json.loads(content)
        except ValueError as error:
            raise StoreError(f"{key} in the object store is damaged: not JSON.", "Restore or delete it.") from error

    def write_json(self, key: str, document: Any, *, if_absent: bool = False) -> bool:
        """Write a document; ``if_absent`` as for ``write_bytes``."""
        content = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
        return self.write_bytes(key, content, if_absent=if_absent)

    def put_file(
        self, path: Path, key: str, *, size: int, sha256: str, advance: Callable[[int], None] | None = None
    ) -> None:
        """Upload the file ``path`` that is known to have this size and hash, large ones in parts.

        The content is hashed again while it is sent, and the object appears only when both agree, so a file that
        changes meanwhile raises ``StoreError`` and leaves no object. ``advance`` gets the bytes sent since the last
        call.
        """
        from minio.error import S3Error

        part = max(PART_BYTES, -(-size // MOST_PARTS))
        with self._explained("upload", key), path.open("rb") as file:
            try:
                self._client.put_object(
                    self.settings.bucket,
                    key,
                    _CheckedReader(file, path, size, sha256, advance),  # pyrefly: ignore - only read() is used
                    size,
                    part_size=part,
                    num_parallel_uploads=1,  # the SDK's own pool leaks its threads when reading fails
                )
            except S3Error as error:
                # The answer to "complete" was lost and the repeated request found the upload gone: done already.
                if error.code != "NoSuchUpload" or self.size(key) != size:
                    raise

    def get_file(self, key: str, path: Path) -> None:
        """Download an object, replacing ``path`` in one step. Raises ``StoreError`` when there is none."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            with temporary.open("wb") as file:
                for chunk in self.stream(key):
                    file.write(chunk)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def stream(self, key: str, offset: int = 0) -> Iterator[bytes]:
        """An object's content from byte ``offset`` on, in pieces; a broken connection is continued where it broke."""
        with self._explained("read", key):
            yield from self._chunks(key, offset)

    def delete(self, key: str) -> None:
        """Delete an object; nothing happens when there is none."""
        with self._explained("delete", key):
            self._client.remove_object(self.settings.bucket, key)

    def abort_uploads(self, prefix: str, before: datetime) -> int:
        """Free what uploads of large files left that were begun before a time (server's) and never ended; their number.

        MinIO lists none, as it drops them itself after a day.
        """
        with self._explained("list unfinished uploads of", prefix):
            found = self._client._list_multipart_uploads(self.settings.bucket, prefix=prefix).uploads
            stale = [each for each in found if each.initiated_time is not None and each.initiated_time < before]
            for each in stale:
                if each.object_name and each.upload_id:
                    self._client._abort_multipart_upload(self.settings.bucket, each.object_name, each.upload_id)
        return len(stale)

    def _chunks(self, key: str, offset: int = 0) -> Iterator[bytes]:
        import urllib3

        breaks = 0
        while True:
            # The SDK asks for a range only when offset is not 0; a range that begins at the end would be an error.
            response = self._client.get_object(self.settings.bucket, key, offset=offset)
            try:
                for chunk in response.stream(CHUNK_BYTES):
                    offset += len(chunk)
                    breaks = 0
                    yield chunk
                return
            except urllib3.exceptions.HTTPError:
                breaks += 1
                if breaks > 5 or not self.patience:
                    raise
                time.sleep(0.2 * 2**breaks)
            finally:
                response.close()
                response.release_conn()

    def _create(self, key: str, content: bytes) -> bool:
        """Write unless there is one: ``If-None-Match: *``, for which the SDK has no call of its own.

        Not through a presigned URL: urllib3 logs URLs, and that one carries a signature.
        """
        from minio.error import S3Error

        with self._explained("write", key):
            for attempt in range(6):
                try:
                    self._client._execute(
                        "PUT", self.settings.bucket, key, body=content, headers={"If-None-Match": "*"}
                    )
                except S3Error as error:
                    if error.code == "PreconditionFailed":
                        # It is ours all the same when the answer to a first try was lost.
                        return self.read_bytes(key) == content
                    if error.code != "ConditionalRequestConflict" or attempt == 5:
                        raise
                    time.sleep(0.1 * 2**attempt)  # two at the same moment; S3 asks to try again
                else:
                    return True
        raise AssertionError("unreachable")

    def _explained(self, action: str, key: str = "") -> contextlib.AbstractContextManager[None]:
        return explained(self.settings, f"{action} {key}" if key else action)


class _CheckedReader:
    """Reads a file for an upload and hashes what it hands out; the last piece is withheld when the hash is wrong."""

    def __init__(
        self, file: io.BufferedReader, path: Path, size: int, sha256: str, advance: Callable[[int], None] | None
    ) -> None:
        self._file = file
        self._path = path
        self._left = size
        self._sha256 = sha256
        self._hash = hashlib.sha256()
        self._advance = advance

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes. Raises ``StoreError`` when the file is not what it was."""
        piece = self._file.read(min(size, self._left))
        self._hash.update(piece)
        self._left -= len(piece)
        ended_early = not piece and size > 0 and self._left > 0
        if ended_early or (not self._left and (self._file.read(1) or self._hash.hexdigest() != self._sha256)):
            raise StoreError(
                f"{self._path} changed while it was uploaded; nothing was stored.",
                "Push again when nothing writes to the folder any more.",
            )
        if self._advance is not None:
            self._advance(len(piece))
        return piece
