"""Settings from the environment, for the parts that run in the training image. ``.env.example`` documents each."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, SecretStr

from trainer.errors import StoreError, UsageError
from trainer.masking import looks_like_path

DEFAULT_BUCKET = "pippa"
"""The bucket where PIPPA_S3_BUCKET names none: pippa's own, which it creates."""

DISK_RESERVE = 2 * 1024**3
"""Bytes the frame cache leaves free on its disk, beside what the checkpoints on it will need: they need it more."""

_ENDLESS = 1e9
"""More seconds or gigabytes than anybody means, and infinity."""


def pippa_home(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder for everything pippa leaves on this machine: ``PIPPA_HOME``, by default ``.pippa`` here."""
    return Path(environ.get("PIPPA_HOME") or ".pippa").absolute()


def frame_cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where this machine keeps decoded frames."""
    return pippa_home(environ) / "cache" / "frames"


def frame_cache_bytes(environ: Mapping[str, str] = os.environ) -> int | None:
    """``PIPPA_FRAME_CACHE``, the bound of the decoded frames in gigabytes; None leaves it to the disk's free space.

    Raises ``UsageError`` when it is no number of 0 or more.
    """
    gigabytes = number(environ, "PIPPA_FRAME_CACHE", "gigabytes", "such as 50; 0 decodes frames for every sample")
    return None if gigabytes is None else int(gigabytes * 1e9)


def upload_patience(environ: Mapping[str, str] = os.environ) -> float:
    """``PIPPA_UPLOAD_PATIENCE``, the seconds uploads may make no progress after the training; an hour by default.

    Raises ``UsageError`` when it is no number of 0 or more.
    """
    seconds = number(environ, "PIPPA_UPLOAD_PATIENCE", "seconds", "such as 3600")
    return 3600.0 if seconds is None else seconds


def upload_queue(environ: Mapping[str, str] = os.environ) -> int:
    """``PIPPA_UPLOAD_QUEUE``, how many checkpoints may wait on this disk for the object store; 20 by default.

    Raises ``UsageError`` when it is no number of 1 or more.
    """
    count = number(environ, "PIPPA_UPLOAD_QUEUE", "checkpoints", "such as 20")
    if count is not None and count < 1:
        raise UsageError("PIPPA_UPLOAD_QUEUE is below 1.", "Set it to a number of checkpoints, such as 20.")
    return 20 if count is None else int(count)


def price_per_hour(environ: Mapping[str, str] = os.environ) -> float | None:
    """``PIPPA_PRICE_PER_HOUR``, what a machine costs an hour, in any currency; None where it is not set.

    Raises ``UsageError`` when it is no number of 0 or more.
    """
    return number(environ, "PIPPA_PRICE_PER_HOUR", "money", "such as 2.49")


def number(environ: Mapping[str, str], name: str, unit: str, example: str) -> float | None:
    """The setting ``name``, a number of ``unit``; None when it is not set.

    Raises ``UsageError``, with the ``example``, when it is no number of 0 or more.
    """
    given = environ.get(name)
    if not given:
        return None
    try:
        found = float(given)
    except ValueError:
        found = -1.0
    if not 0 <= found < _ENDLESS:  # also false for NaN
        raise UsageError(f"{name} is {given!r}, not a number of {unit}.", f"Set it to one, {example}.")
    return found


def secret_from(environ: Mapping[str, str], name: str) -> str | None:
    """The secret ``name``: from the file named by ``<name>_FILE`` (as Docker secrets are), else from ``name`` itself.

    Raises ``UsageError`` when the file can't be read.
    """
    file = environ.get(f"{name}_FILE")
    if not file:
        return environ.get(name) or None
    if not looks_like_path(file):
        raise UsageError(
            f"{name}_FILE is not the path of a file. What it is isn't shown: it may be the secret itself.",
            f"Set {name}_FILE to the path of a file that holds the secret, or {name} to the secret.",
        )
    try:
        return Path(file).expanduser().read_text().strip() or None
    except (OSError, RuntimeError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text file"
        raise UsageError(
            f"{name}_FILE: can't read {file} ({reason}).", f"Point it at a readable file, or set {name}."
        ) from None


def hub_token(environ: Mapping[str, str] = os.environ) -> str | None:
    """The token for the Hugging Face hub; without one its client looks for its own (``hf auth login``).

    Raises ``UsageError`` as ``secret_from``.
    """
    return secret_from(environ, "HF_TOKEN")


class S3Settings(BaseModel):
    """Where an S3 store is and how to sign in. The keys never appear in ``repr``, logs or dumps."""

    model_config = ConfigDict(frozen=True)

    endpoint: str
    """URL of the S3 endpoint, such as ``http://minio:9000``; the scheme decides about TLS."""
    access_key: SecretStr
    secret_key: SecretStr
    bucket: str = DEFAULT_BUCKET
    region: str = "us-east-1"

    @property
    def host(self) -> str:
        """Host and port, as the minio SDK takes them."""
        return urlsplit(self.endpoint).netloc

    @property
    def secure(self) -> bool:
        """Whether the endpoint speaks TLS."""
        return urlsplit(self.endpoint).scheme == "https"

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> S3Settings:
        """Read ``PIPPA_S3_*``. Raises ``StoreError`` when the endpoint or a key is missing."""
        endpoint = environ.get("PIPPA_S3_ENDPOINT", "")
        access_key = secret_from(environ, "PIPPA_S3_ACCESS_KEY")
        secret_key = secret_from(environ, "PIPPA_S3_SECRET_KEY")
        try:
            url = urlsplit(endpoint)
        except ValueError:  # half an IPv6 address
            url = urlsplit("")
        if url.scheme not in ("http", "https") or not url.netloc:
            raise StoreError(
                # Before an @ is a password, which without a scheme does not look like one.
                f"PIPPA_S3_ENDPOINT is {endpoint.rpartition('@')[2] or 'not set'!r}, not the URL of an S3 endpoint.",
                "Set it to one, such as http://127.0.0.1:9000, or unset it: the store is then PIPPA_HOME/store.",
            )
        server = url.netloc.rpartition("@")[2]
        if url.path.strip("/") or url.query or url.fragment or server != url.netloc:
            raise StoreError(
                "PIPPA_S3_ENDPOINT holds more than scheme, host and port.",
                f"Set it to {url.scheme}://{server}; the bucket is PIPPA_S3_BUCKET, the keys are PIPPA_S3_ACCESS_KEY "
                "and PIPPA_S3_SECRET_KEY.",
            )
        if not access_key or not secret_key:
            raise StoreError(
                f"No keys for the object store {endpoint}.",
                "Set PIPPA_S3_ACCESS_KEY and PIPPA_S3_SECRET_KEY (or …_FILE with the path of a secret file).",
            )
        return cls(
            endpoint=endpoint.rstrip("/"),
            access_key=SecretStr(access_key),
            secret_key=SecretStr(secret_key),
            bucket=environ.get("PIPPA_S3_BUCKET") or DEFAULT_BUCKET,
            region=environ.get("PIPPA_S3_REGION") or "us-east-1",
        )

    def to_environ(self) -> dict[str, str]:
        """The variables ``from_environ`` reads, for a child process. Holds the keys: never log it."""
        return {
            "PIPPA_S3_ENDPOINT": self.endpoint,
            "PIPPA_S3_ACCESS_KEY": self.access_key.get_secret_value(),
            "PIPPA_S3_SECRET_KEY": self.secret_key.get_secret_value(),
            "PIPPA_S3_BUCKET": self.bucket,
            "PIPPA_S3_REGION": self.region,
        }
