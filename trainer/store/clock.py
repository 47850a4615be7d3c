"""The store's own clock, by which all ages of objects are computed: no machine's clock matters."""

from __future__ import annotations

import contextlib
import secrets
from datetime import datetime

from trainer.errors import StoreError
from trainer.store.object_store import ObjectStore

CLOCK = "gc/clock/"


def store_time(store: ObjectStore) -> datetime:
    """The store's time: that of an object which is written for this and deleted."""
    key = f"{CLOCK}{secrets.token_hex(12)}.json"
    store.write_bytes(key, b"")
    try:
        return time_of(store, key)
    finally:
        with contextlib.suppress(StoreError):
            store.delete(key)


def time_of(store: ObjectStore, key: str) -> datetime:
    """When an object was written."""
    # From a listing, as all other times here are: MinIO gives milliseconds there, and seconds for one object.
    for found in store.list(key):
        return found.modified
    raise StoreError(f"{key} vanished from the object store right after it was written.", "Is its disk all right?")
