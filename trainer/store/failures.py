"""What the S3 client library raises, turned into ``StoreError`` with its cure."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator

from trainer.config.settings import S3Settings
from trainer.errors import StoreError
from trainer.store.object_store import MissingObjectError

TRANSIENT = (408, 429, 500, 502, 503, 504)
"""Answers that may be another one next time."""

_OTHER_REGION = (
    *("AuthorizationHeaderMalformed", "PermanentRedirect", "InvalidRegion"),
    *("IllegalLocationConstraintException", "InvalidLocationConstraint"),
)
_DENIED = ("AccessDenied", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch")
# MinIO: XMinioStorageFull (507), QuotaExceeded. SeaweedFS only says InternalError, and the reason in its log.
_FULL = ("storagefull", "no space", "quota")


@contextlib.contextmanager
def explained(settings: S3Settings, what: str) -> Generator[None]:
    """Raise ``StoreError`` for whatever the client library raises in the block; ``what`` is what was being done.

    The library's errors are not chained: their texts hold whole requests.
    """
    from xml.etree import ElementTree

    import urllib3
    from minio.error import InvalidResponseError, MinioException, S3Error, ServerError

    try:
        yield
    except S3Error as error:
        raise _refusal(settings, what, error.code or "", error.message or "", error.response.status) from None
    except ServerError as error:
        raise _refusal(settings, what, "", "", error.status_code) from None
    except InvalidResponseError as error:
        raise _not_s3(settings, what, f": {str(error)[:200]}") from None
    except urllib3.exceptions.HTTPError as error:
        raise _unreachable(settings, what, error) from None
    except MinioException as error:
        raise StoreError(f"{settings.endpoint}: could not {what}: {error}") from None
    except ElementTree.ParseError:
        raise _not_s3(settings, what) from None
    except ValueError as error:
        if str(error).startswith("XML element"):
            raise _not_s3(settings, what) from None
        # The library's own checks: the endpoint's form, names of buckets and objects.
        raise StoreError(
            f"Could not {what}: {error}.", "Check PIPPA_S3_ENDPOINT, PIPPA_S3_BUCKET and the name."
        ) from None


def _refusal(settings: S3Settings, what: str, code: str, message: str, status: int) -> StoreError:
    """The error for an answer that is not a success: S3's error code and message (either may be empty), HTTP status."""
    endpoint, bucket = settings.endpoint, settings.bucket
    detail = " ".join(part for part in (code or f"HTTP {status}", message) if part)
    if code in ("NoSuchKey", "NoSuchObject"):
        return MissingObjectError(f"The object store {endpoint} lacks an object; could not {what}.")
    if code == "NoSuchBucket":
        return no_bucket(settings, what)
    if code in _OTHER_REGION or "region" in message.lower():
        there = re.search(r"(?:expecting|use region) '?([a-z0-9-]+)", message)
        return StoreError(
            f"{endpoint} refuses to {what}: its region is not {settings.region!r} ({detail}).",
            f"Set PIPPA_S3_REGION to {there[1] if there else 'the region of the bucket'}.",
        )
    if code == "RequestTimeTooSkewed":
        return StoreError(
            f"{endpoint} refuses to {what}: the clocks of this machine and of the store differ too much.",
            "Set this machine's clock (`timedatectl set-ntp true`), or the store's.",
        )
    if code in _DENIED or status in (401, 403):
        return StoreError(
            f"{endpoint} refuses to {what} with these keys ({detail}).",
            f"Check PIPPA_S3_ACCESS_KEY and PIPPA_S3_SECRET_KEY; they must read and write the bucket {bucket!r}.",
        )
    if status == 507 or any(word in detail.lower() for word in _FULL):
        return StoreError(
            f"The object store {endpoint} is full; could not {what} ({detail}).",
            "Free other space on its disk first (or raise its quota): garbage collection writes a note before it "
            "deletes. Then `pippa checkpoints gc --keep 2 --delete` leaves each run its newest two checkpoints.",
        )
    if status in TRANSIENT:
        return StoreError(
            f"The object store {endpoint} is in trouble; could not {what} ({detail}).",
            "Look at its log: its disk may be full, or it is starting or overloaded; then try again.",
        )
    return StoreError(f"The object store {endpoint} refuses to {what} ({detail}).")


def _not_s3(settings: S3Settings, what: str, said: str = "") -> StoreError:
    return StoreError(
        f"{settings.endpoint} does not answer as an S3 store does; could not {what}{said}",
        "Check PIPPA_S3_ENDPOINT: it must be the port of the S3 API, not of a console or a proxy.",
    )


def no_bucket(settings: S3Settings, what: str) -> StoreError:
    """The error for a bucket that does not exist."""
    return StoreError(
        f"There is no bucket {settings.bucket!r} at {settings.endpoint}; could not {what}.",
        "Check PIPPA_S3_BUCKET, or create it: `pippa store create`.",
    )


def _unreachable(settings: S3Settings, what: str, error: Exception) -> StoreError:
    import urllib3

    reason = getattr(error, "reason", None) or error
    if isinstance(reason, urllib3.exceptions.SSLError):
        return StoreError(
            f"{settings.endpoint}: TLS failed; could not {what}: {reason}",
            "If its certificate is signed by a CA of your own, set SSL_CERT_FILE to that CA's bundle.",
        )
    cause = reason.__cause__ or reason.__context__ or reason
    detail = cause.strerror if isinstance(cause, OSError) and cause.strerror else type(reason).__name__
    return StoreError(
        f"The object store {settings.endpoint} can't be reached ({detail}); could not {what}.",
        "Is it running, and is PIPPA_S3_ENDPOINT right?",
    )
