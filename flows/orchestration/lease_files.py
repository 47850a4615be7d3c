"""The leases on GPUs that `pippa server` keeps as files, from one start to the next.

They are Prefect's own (``prefect.server.concurrency.lease_storage.filesystem``): a JSON file each.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

SECONDS = 60.0
"""Four times as long as a training waits before it renews its lease (``flows.orchestration.gpu_leases``)."""


def renew(prefect_home: Path) -> None:
    """Let each lease last another minute; call it before the server starts.

    Nobody could renew one while the server was away. It would end them all in its first seconds, and a training that
    waits would get the GPU of one that lives. A dead training's lease ends after the minute, or when the training is
    started again.
    """
    expiration = (datetime.now(UTC) + timedelta(seconds=SECONDS)).isoformat()
    for file in (prefect_home / "concurrency_leases").glob("*.json"):
        try:
            lease = json.loads(file.read_text())
        except (OSError, ValueError):  # Prefect removes what it can't read
            continue
        if "resource_ids" in lease:  # no index: where the two differ, Prefect believes the lease
            new = file.with_suffix(".tmp")
            new.write_text(json.dumps({**lease, "expiration": expiration}))
            new.replace(file)
