"""Why garbage collection never deletes what somebody is about to refer to.

A writer skips the blobs that exist already, so it may come to rely on one that nothing refers to yet, at the very
moment in which the collector finds that nothing refers to it. Two kinds of small objects close this race, without a
lock that writers would hold:

- ``gc/intents/<id>.json``  a writer's list of keys it relies on (blobs, manifest, registry entry);
- ``gc/sweeps/<id>.json``   says that a collector is deciding and deleting; valid for ``SWEEP_VALID`` after it was
  last written.

The **writer** (1) writes its intent, (2) lists the sweeps and waits until none is valid, and only then (3) looks what
exists, uploads the rest and writes the manifest or entry that refers to it, and (4) deletes its intent.
The **collector** (1) writes its sweep, (2) reads the intents, (3) *after* them reads the roots, (4) deletes what
neither names, (5) deletes its sweep.

Take any writer and any collector. The store is strongly consistent, so either the collector's reading of the intents
came after the intent was written, or before.

- *After, and the intent was there*: its keys are kept.
- *After, and the intent was deleted already*: then the referring manifest or entry was written before that, and the
  collector, which reads the roots after the intents, sees it.
- *Before*: the sweep was written earlier still, so the writer, which lists the sweeps after it wrote its intent, sees
  it and waits. When it looks what exists, the collector deletes no more.

"Deletes no more" holds after a sweep object was deleted, and after it expired: a collector measures its age on clocks
that also count suspension, refreshes it in time, and stops deleting when it is older than ``SWEEP_USABLE``; one delete
request lasts at most 25 s and is not repeated, which is less than the difference to ``SWEEP_VALID``. Writers compare
times the *store* gave to objects (the server, or the folder's file system), so nobody's clock matters. Several
collectors at once are no problem: each one has its own sweep, and each deletes only what it may.

An intent that a killed writer left behind keeps its keys for ``INTENT_VALID``. A writer that outlasts even that finds
its intent gone (``Intent.intact``) before it writes what refers to the blobs, and starts over.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from trainer.errors import StoreError
from trainer.store.object_store import ObjectStore

INTENTS = "gc/intents/"
SWEEPS = "gc/sweeps/"
INTENT_VALID = timedelta(days=7)
SWEEP_VALID = timedelta(seconds=120)
SWEEP_USABLE = timedelta(seconds=80)
_SWEEP_REFRESH = timedelta(seconds=20)


class Intent:
    """A writer's announcement, while ``relying_on`` lasts."""

    def __init__(self, store: ObjectStore, key: str) -> None:
        self._store = store
        self.key = key

    def intact(self) -> bool:
        """Whether it still protects; False when the writer took longer than ``INTENT_VALID``."""
        return self._store.exists(self.key)


@contextlib.contextmanager
def relying_on(store: ObjectStore, keys: Iterable[str]) -> Iterator[Intent]:
    """Protect ``keys``, existing or not, from garbage collection; look whether they exist only inside.

    Waits while a collection is under way.
    """
    intent = Intent(store, f"{INTENTS}{secrets.token_hex(12)}.json")
    store.write_json(intent.key, {"keys": sorted(set(keys))})
    try:
        _wait_for_sweeps(store, intent.key)
        yield intent
    except BaseException:
        # The store may be what failed: don't wait for it a second time. A leftover intent only keeps garbage longer.
        with contextlib.suppress(StoreError):
            store.without_retries().delete(intent.key)
        raise
    with contextlib.suppress(StoreError):
        store.delete(intent.key)


def _wait_for_sweeps(store: ObjectStore, intent_key: str) -> None:
    written, started = _store_time(store, intent_key), time.monotonic()
    while True:
        # A clock of ours that runs slow (suspension) only makes the wait longer.
        now = written + timedelta(seconds=time.monotonic() - started)
        if all(now - sweep.modified > SWEEP_VALID for sweep in store.list(SWEEPS)):
            return
        time.sleep(0.2)


def _store_time(store: ObjectStore, key: str) -> datetime:
    # From a listing, as all other times here are: MinIO gives milliseconds there, and seconds for one object.
    for found in store.list(key):
        return found.modified
    raise StoreError(f"{key} vanished from the object store right after it was written.", "Is its disk all right?")


class Sweep:
    """A collector's announcement. ``check`` must be called right before each delete."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._key = f"{SWEEPS}{secrets.token_hex(12)}.json"
        self._write()
        self.now = _store_time(store, self._key)
        """The store's time as the sweep began."""

    def check(self) -> None:
        """Refresh the announcement when due. Raises ``StoreError`` when it got too old to delete anything."""
        written = self._written
        if _age(written) > _SWEEP_REFRESH:
            self._write()
        # Measured from the old announcement after the new one has arrived: it may have expired on the way.
        if _age(written) > SWEEP_USABLE:
            raise StoreError(
                "Garbage collection was interrupted for too long and stopped; nothing in use was touched.",
                "Run it again.",
            )

    def end(self) -> None:
        """Let the writers go on."""
        with contextlib.suppress(StoreError):
            self._store.delete(self._key)

    def _write(self) -> None:
        # The clocks are read before the request: the store's time of the object is later, never earlier.
        clocks = _clocks()
        self._store.write_json(self._key, {})
        self._written = clocks


def _clocks() -> tuple[float, ...]:
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic(), time.time(), time.clock_gettime(boot) if boot is not None else 0.0


def _age(since: tuple[float, ...]) -> timedelta:
    """Time since ``_clocks()`` by the clock that advanced most, as some stop while the machine sleeps."""
    return timedelta(seconds=max(now - then for now, then in zip(_clocks(), since, strict=True)))


def intended_keys(store: ObjectStore, now: datetime) -> tuple[set[str], list[str]]:
    """The keys that live intents protect, and the intents that have expired."""
    keys: set[str] = set()
    expired = []
    for found in store.list(INTENTS):
        if now - found.modified > INTENT_VALID:
            expired.append(found.key)
        elif (document := store.read_json(found.key)) is not None:
            keys.update(document["keys"])
    return keys, expired
