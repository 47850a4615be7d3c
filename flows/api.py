"""A client of Prefect's API whose refusals are said in pippa's words."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client

from trainer.errors import PippaError


@contextmanager
def prefect_client() -> Iterator[SyncPrefectClient]:
    """A client of the server ``PREFECT_API_URL``. Raises ``PippaError`` where it is refused, or nothing answers."""
    try:
        with get_client(sync_client=True) as client:
            yield client
    except httpx.HTTPStatusError as error:
        if error.response.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise PippaError(
                "The Prefect server refuses the password.",
                "Set PREFECT_API_AUTH_STRING (or …_FILE) to the server's own: user:password.",
            ) from None
        raise
    except httpx.TransportError as error:
        raise PippaError(
            f"The Prefect server {os.environ['PREFECT_API_URL']} does not answer: {error}",
            "Is the address right, and the tunnel to it open?",
        ) from error
