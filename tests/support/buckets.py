"""Buckets of the test server: one for each test."""

from __future__ import annotations

import contextlib
import io
import secrets
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

from trainer.config.settings import S3Settings


class Buckets:
    """Makes the next one while a test runs: SeaweedFS takes a fifth of a second to make room for the first object.

    With the library's client, not ours, of which tests replace parts.
    """

    def __init__(self, server: S3Settings) -> None:
        from minio import Minio  # not at the top: a GPU machine that runs some of the tests has no minio

        self._server = server
        keys = server.access_key.get_secret_value(), server.secret_key.get_secret_value()
        self._client = Minio(server.host, *keys, secure=False, region=server.region)
        self._maker = ThreadPoolExecutor(1, thread_name_prefix="next-bucket")
        self._next = self._maker.submit(self._make)

    @contextlib.contextmanager
    def one(self) -> Generator[S3Settings]:
        """An empty bucket, deleted afterwards: SeaweedFS has room for some dozens only."""
        made, self._next = self._next, self._maker.submit(self._make)
        name = made.result()
        yield self._server.model_copy(update={"bucket": name})
        self._delete(name)

    def close(self) -> None:
        """Delete the one that no test has asked for."""
        self._maker.shutdown()
        self._delete(self._next.result())

    def _make(self) -> str:
        name = f"test-{secrets.token_hex(6)}"
        self._client.make_bucket(name)
        self._client.put_object(name, "first", io.BytesIO(b"-"), 1)
        self._client.remove_object(name, "first")
        return name

    def _delete(self, name: str) -> None:
        for found in list(self._client.list_objects(name, recursive=True)):
            self._client.remove_object(name, str(found.object_name))
        self._client.remove_bucket(name)
