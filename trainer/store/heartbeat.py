"""Whether a run is active, by the time of its last write to the store, on the store's clock.

No other clock counts. A word that a machine's wrong clock puts into the future keeps no dead run alive.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from trainer.store.object_store import ObjectStore
from trainer.store.runs import RUNS

ALIVE = timedelta(seconds=60)
"""An active run renews its state twice in that time; one that was silent for longer was killed."""
AHEAD = timedelta(seconds=5)
"""A word may seem to come so much later than now: a store gives some times in whole seconds."""


def is_alive(store: ObjectStore, run_id: str, now: datetime) -> bool:
    """Whether the run ``run_id``, unfinished by its state, wrote a moment before ``now``, the store's time."""
    for name in ("state.json", "spec.json"):
        if (found := store.info(f"{RUNS}{run_id}/{name}")) is not None:
            # From before the store's clock was set back, or the folder's disk was in another machine.
            return -AHEAD <= now - found.modified < ALIVE
    return False
