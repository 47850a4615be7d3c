"""Clients of Prefect's API."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import ObjectAlreadyExists

from flows.prefect_server import refusal, require_version, unreachable

BUSY_SECONDS = 0.1


def sync_client() -> SyncPrefectClient:
    """A client of the server ``PREFECT_API_URL``, to be entered, that asks a busy server again soon."""
    return get_client(sync_client=True, httpx_settings={"event_hooks": {"response": [_ask_again_soon]}})


def _ask_again_soon(response: httpx.Response) -> None:
    """Say when to ask again after a 503, which Prefect's client would do after 2 s and more.

    A server on SQLite answers so at once when it reads a row, somebody else writes to the database, and it then wants
    to write too: that is over in milliseconds. After the first tries the pauses grow as the client's own.
    """
    if response.status_code != HTTPStatus.SERVICE_UNAVAILABLE or "Retry-After" in response.headers:
        return
    extensions = response.request.extensions
    tries = extensions["pippa.tries"] = extensions.get("pippa.tries", 0) + 1
    response.headers["Retry-After"] = str(BUSY_SECONDS * 4 ** (tries - 1))


def server_time(client: SyncPrefectClient) -> datetime:
    """The server's time, to the second: the clock that dates the states of flow runs.

    This machine's may differ by minutes.
    """
    return parsedate_to_datetime(client.request("GET", "/hello").headers["Date"])


@contextmanager
def unless_there() -> Generator[None]:
    """Make something in Prefect in this block that others may make at the same moment: the first one makes it."""
    try:
        yield
    except ObjectAlreadyExists:
        pass
    except httpx.HTTPStatusError as error:
        if error.response.status_code != HTTPStatus.CONFLICT:
            raise


@contextmanager
def prefect_client() -> Generator[SyncPrefectClient]:
    """``sync_client`` for commands.

    Raises ``ServerError`` where it is refused, nothing answers, or what answers is no Prefect server of this version.
    """
    url = os.environ["PREFECT_API_URL"]
    try:
        with sync_client() as client:
            require_version(url, _version(client))
            yield client
    except httpx.HTTPStatusError as error:
        if refused := refusal(url, error.response.status_code):
            raise refused from None
        raise
    except httpx.TransportError as error:
        raise unreachable(url, str(error)) from error


def _version(client: SyncPrefectClient) -> object:
    try:
        return client.request("GET", "/admin/version").json()
    except httpx.HTTPStatusError as error:
        if error.response.status_code != HTTPStatus.NOT_FOUND:
            raise
    except ValueError:
        pass
    return None
