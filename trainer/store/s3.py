"""``S3Store``: the few S3 calls pippa makes, with retries, and with errors that say what to do.

Only calls that every S3 server honours are used. A failed request is repeated with growing pauses while it may
heal (connection refused or reset, 429, 5xx, SlowDown); what can't heal is a ``StoreError`` at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.config.settings import DEFAULT_BUCKET, S3Settings
from trainer.errors import StoreError
from trainer.store.failures import TRANSIENT, explained, no_bucket
from trainer.store.hashing import PART_BYTES, Hashed
from trainer.store.object_store import MissingObjectError, ObjectInfo, ObjectStore, changed
from trainer.store.parallel import for_each
from trainer.store.parts import PARTS_PER_FILE, Buffers, in_order
from trainer.store.socket_reads import CHUNK_BYTES, chunks_into

if TYPE_CHECKING:
    import urllib3

    from trainer.store.sdk import Client

CONNECTIONS = 32
CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0


class S3Store(ObjectStore):
    """One bucket of an S3 server.

    Every method raises ``StoreError`` when the server can't be reached, refuses the keys, lacks the bucket or is full.
    ``patience`` is about how long, in seconds, a request that may heal is repeated before that.
    """

    def __init__(self, settings: S3Settings, *, patience: float = 20.0, read_seconds: float = READ_SECONDS) -> None:
        self.settings = settings
        self.patience = patience
        self._read_seconds = read_seconds

    def __repr__(self) -> str:
        return f"S3Store({self.settings.endpoint}, bucket {self.settings.bucket!r})"

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
            timeout=urllib3.Timeout(connect=min(CONNECT_SECONDS, self._read_seconds), read=self._read_seconds),
            retries=retries,
            cert_reqs="CERT_REQUIRED",
            ca_certs=os.environ.get("SSL_CERT_FILE") or certifi.where(),
        )

    @cached_property
    def _buffers(self) -> Buffers:
        return Buffers()

    @cached_property
    def _client(self) -> Client:
        # The SDK takes a third of a second to import; commands that never ask the store don't pay it.
        from trainer.store.sdk import Client

        # It warns of each repeated request, on stderr when logging is not configured; we report the last failure.
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
        return Client(
            self.settings.host,
            access_key=self.settings.access_key.get_secret_value(),
            secret_key=self.settings.secret_key.get_secret_value(),
            secure=self.settings.secure,
            region=self.settings.region,
            http_client=self._http,
        )

    @property
    def address(self) -> str:
        return f"{self.settings.endpoint}, bucket {self.settings.bucket}"

    def without_retries(self, answer_seconds: float = 20.0) -> S3Store:
        return S3Store(self.settings, patience=0.0, read_seconds=answer_seconds)

    def open(self) -> None:
        if self.settings.bucket == DEFAULT_BUCKET:
            self.create()
        elif not self._bucket_exists():
            raise no_bucket(self.settings, "open the store")

    def create(self) -> None:
        if self._bucket_exists():
            return
        with self._explained("create the bucket"):
            try:
                self._client.make_bucket(self.settings.bucket, location=self.settings.region)
            except Exception as error:
                # Somebody else created it in between.
                if getattr(error, "code", "") not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                    raise

    def _bucket_exists(self) -> bool:
        from minio.error import S3Error

        # Asked by a listing: the answer to a HEAD has no body, which would say what is wrong with region or keys.
        with self._explained("look for the bucket"):
            try:
                next(self._client.list_objects(self.settings.bucket, prefix="snapshots/"), None)
            except S3Error as error:
                if error.code == "NoSuchBucket":
                    return False
                raise
        return True

    def info(self, key: str) -> ObjectInfo | None:
        try:
            with self._explained("look up", key):
                found = self._client.stat_object(self.settings.bucket, key)
        except MissingObjectError:
            return None
        if found.size is None or found.last_modified is None:
            raise StoreError(f"{self.settings.endpoint} gave no size or time for {key}.", "Is it an S3 store?")
        return ObjectInfo(key, found.size, found.last_modified, found.etag or "")

    def is_encrypted(self, key: str) -> bool:
        """Whether the server encrypts an object with its own key, so that its ETag is no MD5 of the content."""
        with self._explained("look up", key):
            headers = self._client.stat_object(self.settings.bucket, key).metadata or {}
        return any(name.lower().startswith("x-amz-server-side-encryption") for name in headers)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._explained("list", prefix):
            for found in self._client.list_objects(self.settings.bucket, prefix=prefix, recursive=True):
                # A server with folders (SeaweedFS) may list them, or files it made of itself, as keys ending in "/".
                if found.object_name and not found.object_name.endswith("/") and found.last_modified:
                    yield ObjectInfo(found.object_name, found.size or 0, found.last_modified, found.etag or "")

    def write_bytes(self, key: str, content: bytes, *, if_absent: bool = False) -> bool:
        if if_absent:
            return self._create(key, content)
        with self._explained("write", key):
            self._client.put_object(self.settings.bucket, key, io.BytesIO(content), len(content))
        return True

    def put_file(self, path: Path, key: str, *, hashed: Hashed, advance: Callable[[int], None] | None = None) -> None:
        """Upload a file; a large one in parts, several at once.

        Whether it changed meanwhile: a small one is hashed again; of a large one the time of its last change is looked
        at with each part, and a server that verifies what it is sent (MinIO and S3 do, SeaweedFS does not) holds each
        part against its hash.

        Where an upload of the same content was killed or cut off, the parts that arrived are not sent again: those
        whose ETag is the MD5 of our part.
        """
        with self._explained("upload", key), path.open("rb", buffering=0) as file:

            def send(number: int, upload_id: str | None, there: str = "") -> str:
                """Send a part, numbered from 0, unless it is ``there``, an ETag; its ETag."""
                if advance is not None:
                    advance(0)  # where a stopped upload ends
                offset = number * hashed.part_bytes
                size = min(hashed.part_bytes, hashed.size - offset)
                with self._buffers.read(file.fileno(), offset, size) as part:
                    now = os.fstat(file.fileno())
                    same = len(part) == size and now.st_size == hashed.size
                    if upload_id is None:
                        same = same and hashlib.sha256(part).hexdigest() == hashed.sha256
                    elif now.st_mtime_ns != hashed.modified_ns:
                        same = False
                    if not same:
                        raise changed(path)
                    if there and hashlib.md5(part, usedforsecurity=False).hexdigest() == there:
                        etag = there
                    else:
                        etag = self._send(path, key, part, hashed.parts[number], upload_id, number + 1)
                if advance is not None:
                    advance(size)
                return etag

            if len(hashed.parts) == 1:
                send(0, None)
            else:
                self._send_parts(key, hashed, send)

    def _send_parts(self, key: str, hashed: Hashed, send: Callable[[int, str | None, str], str]) -> None:
        import urllib3
        from minio.error import MinioException, S3Error

        bucket = self.settings.bucket
        upload_id, there = self._left_over(key) or (self._client.begin_upload(bucket, key), {})
        try:
            etags = for_each(
                lambda number: send(number, upload_id, there.get(number, "")),
                range(len(hashed.parts)),
                workers=PARTS_PER_FILE,
            )
            self._client.complete_upload(bucket, key, upload_id, etags)
        except S3Error as error:
            # Done already: the answer to "complete" was lost and the repeated request found the upload gone, or
            # somebody else completed it, who sends the same content.
            if error.code != "NoSuchUpload" or self.size(key) != hashed.size:
                raise
        except (MinioException, urllib3.exceptions.HTTPError):
            raise  # what arrived is of use when it is tried again; else garbage collection frees it
        except BaseException:
            self._abort(key, upload_id)
            raise

    def _left_over(self, key: str) -> tuple[str, dict[int, str]] | None:
        """An upload of the same content that never ended: its id, and the ETag of each part, numbered from 0."""
        from minio.error import MinioException

        try:
            found = self._client.parts_of(self.settings.bucket, key)
        except MinioException:  # a server, or keys, that may not list them
            return None
        return found and (found[0], {number - 1: part.etag for number, part in found[1].items()})

    def _send(self, path: Path, key: str, part: memoryview, sha256: str, upload_id: str | None, number: int) -> str:
        from minio.error import S3Error

        try:
            if upload_id is not None:
                return self._client.put_part(self.settings.bucket, key, upload_id, number, part, sha256)
            return self._client.put(self.settings.bucket, key, part, sha256)
        except S3Error as error:
            if error.code == "XAmzContentSHA256Mismatch":
                raise changed(path) from None
            raise

    def _abort(self, key: str, upload_id: str) -> None:
        # The store may be what failed: don't wait for it again. Garbage collection frees what is left.
        with contextlib.suppress(Exception):
            self.without_retries()._client.abort_upload(self.settings.bucket, key, upload_id)

    def stream(self, key: str, offset: int = 0, size: int | None = None) -> Iterator[bytes | memoryview]:
        """An object's content from byte ``offset`` on, in pieces; a broken connection is continued where it broke.

        With its ``size`` a large one is fetched in several parts at once; then each piece is valid until the next only.
        """
        with self._explained("read", key):
            if size is None or size - offset <= PART_BYTES:
                yield from self._chunks(key, offset)
            else:
                yield from in_order(self._buffers, lambda first, room: self._fill(key, first, room), offset, size)

    def _fill(self, key: str, offset: int, room: memoryview) -> int:
        """Read from ``offset`` on as much as ``room`` takes; less where the object ends."""
        from minio.error import S3Error

        done = 0
        try:
            for chunk in self._chunks(key, offset, room):
                done += len(chunk)
        except S3Error as error:
            if error.code != "InvalidRange":  # the object ends before
                raise
        return done

    def delete(self, key: str) -> None:
        with self._explained("delete", key):
            self._client.remove_object(self.settings.bucket, key)

    def abort_uploads(self, prefix: str, before: datetime) -> int:
        # MinIO lists none, as it drops them itself after a day.
        with self._explained("list unfinished uploads of", prefix):
            stale = self._client.unfinished_uploads(self.settings.bucket, prefix, before)
            for key, upload_id in stale:
                self._client.abort_upload(self.settings.bucket, key, upload_id)
        return len(stale)

    def _chunks(self, key: str, offset: int = 0, room: memoryview | None = None) -> Iterator[bytes | memoryview]:
        """From ``offset`` on: all there is or, into ``room``, as much as that takes."""
        import urllib3

        breaks = 0
        while room is None or room:
            # The SDK asks for a range only when offset or length is not 0; one that begins at the end is an error.
            length = 0 if room is None else len(room)
            response = self._client.get_object(self.settings.bucket, key, offset=offset, length=length)
            try:
                for chunk in response.stream(CHUNK_BYTES) if room is None else chunks_into(response, room):
                    offset += len(chunk)
                    breaks = 0
                    room = None if room is None else room[len(chunk) :]
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
        from minio.error import S3Error

        with self._explained("write", key):
            for attempt in range(6):
                try:
                    self._client.create(self.settings.bucket, key, content)
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
