"""Leases as a Prefect server finds them when it starts, in Prefect's own storage."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import uuid4

from prefect.server.concurrency.lease_storage import ConcurrencyLimitLeaseMetadata
from prefect.server.concurrency.lease_storage.filesystem import ConcurrencyLeaseStorage

from flows.orchestration import lease_files


def test_a_lease_that_ended_while_the_server_was_away_can_be_renewed(tmp_path):
    async def expired() -> tuple[int, int]:
        storage = ConcurrencyLeaseStorage(tmp_path / "concurrency_leases")
        for seconds in (-3600, -1, 30):
            await storage.create_lease([uuid4()], timedelta(seconds=seconds), ConcurrencyLimitLeaseMetadata(slots=1))
        (tmp_path / "concurrency_leases" / f"{uuid4()}.json").write_text("{")  # the power went
        before = len(await storage.read_expired_lease_ids())
        lease_files.renew(tmp_path)
        return before, len(await storage.read_expired_lease_ids())

    assert asyncio.run(expired()) == (2, 0)


def test_a_first_start_finds_none(tmp_path):
    lease_files.renew(tmp_path)
    assert list(tmp_path.iterdir()) == []
