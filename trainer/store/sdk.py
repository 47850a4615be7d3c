"""minio's client, told what it would otherwise compute."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from minio import Minio

KNOWN_SHA256 = "pippa-known-sha256"
"""A header that is not sent: the SHA-256 of the body."""


class Client(Minio):
    """Takes the hash of a body from ``KNOWN_SHA256``.

    By itself it hashes every body once more: with SHA-256 for the signature over http, with MD5 over https. A signed
    hash also makes the server refuse a body that isn't what was hashed, over both.
    """

    def _build_headers(
        self, host: str, headers: Any = None, body: bytes | None = None, creds: Any = None
    ) -> tuple[Any, datetime]:
        sha256 = (headers or {}).pop(KNOWN_SHA256, None)
        if sha256 is None or body is None:
            return super()._build_headers(host, headers, body, creds)
        built, date = super()._build_headers(host, headers, None, creds)
        built["Content-Length"] = str(len(body))
        built["x-amz-content-sha256"] = sha256
        return built, date
