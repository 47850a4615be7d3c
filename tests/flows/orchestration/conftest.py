from __future__ import annotations

from collections.abc import Iterator

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client


@flow(name="train")
def idle() -> None:
    """What a flow run of a training is called."""


@pytest.fixture
def client(stack) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client
