"""Whether a Prefect server is there that pippa can work with: asked without Prefect, which takes seconds to import."""

from __future__ import annotations

import base64
import http.client
import importlib.metadata
import json
import os
from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import urlsplit

from trainer.config.settings import secret_from
from trainer.errors import ServerError

_SECONDS = 10.0
"""A server that many trainings ask at once answers late."""


class UnreachableError(ServerError):
    """Nothing answers, or the server is in trouble: it may be starting."""


def require_server(url: str, environ: Mapping[str, str] = os.environ) -> str:
    """The version of the Prefect server with the API ``url``.

    Raises ``UnreachableError``, ``ServerError`` where it refuses the password, has another major version, or is no
    Prefect server, and ``UsageError`` for a password that can't be read.
    """
    auth = secret_from(environ, "PREFECT_API_AUTH_STRING")
    headers = {"Authorization": f"Basic {base64.b64encode(auth.encode()).decode()}"} if auth else {}
    try:
        address = urlsplit(url)
        kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
        client = kind(address.netloc.rpartition("@")[2], timeout=_SECONDS)
        try:
            client.request("GET", f"{address.path.rstrip('/')}/admin/version", headers=headers)
            answer = client.getresponse()
            status, body = answer.status, answer.read(1000)
        finally:
            client.close()
    except http.client.HTTPException:  # it speaks something else
        raise _another(url) from None
    except (OSError, ValueError) as error:
        raise unreachable(url, getattr(error, "strerror", None) or str(error)) from None
    if refused := refusal(url, status):
        raise refused
    try:
        said: object = json.loads(body) if status == HTTPStatus.OK else None
    except ValueError:
        said = None
    return require_version(url, said)


def require_version(url: str, said: object) -> str:
    """``said``, what ``url`` answers to ``GET /admin/version``: the version of a server whose requests are ours.

    Raises ``ServerError``.
    """
    ours = importlib.metadata.version("prefect")
    if not (isinstance(said, str) and said.partition(".")[0].isdecimal()):
        raise _another(url)
    if said.partition(".")[0] != ours.partition(".")[0]:
        raise ServerError(
            f"The Prefect server {url} has the version {said}; pippa works with {ours}.",
            "Start one of that version: `pippa server`, or the stack in containers.",
        )
    return said


def refusal(url: str, status: int) -> ServerError | None:
    """Why the server answers with this HTTP status, where that says so whatever was asked."""
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return ServerError(
            "The Prefect server refuses the password.",
            "Set PREFECT_API_AUTH_STRING (or …_FILE) to the server's own: user:password.",
        )
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return UnreachableError(f"The Prefect server {url} fails: it answers {status}.", "Its log says why.")
    return None


def unreachable(url: str, reason: str) -> UnreachableError:
    """Nothing answers there."""
    return UnreachableError(
        f"The Prefect server {url} does not answer: {reason}",
        "Is PREFECT_API_URL right, `pippa server` running, and the tunnel to it open? Without the setting "
        "`pippa train` records the run itself.",
    )


def _another(url: str) -> ServerError:
    return ServerError(f"{url} is not the API of a Prefect server.", "It ends in /api: http://127.0.0.1:4200/api.")
