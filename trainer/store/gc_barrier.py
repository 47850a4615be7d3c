"""Why garbage collection never deletes what somebody is about to refer to.

A writer skips the blobs that exist already, so it may come to rely on one that nothing refers to yet, at the very
moment in which the collector finds that nothing refers to it. Two kinds of small objects close this race, without a
lock that writers would hold:

- ``gc/intents/<id>.json``  a writer's list of keys it relies on (blobs, manifest, registry entry);
- ``gc/sweeps/<id>.json``   says that a collector is deciding and deleting; valid for ``SWEEP_VALID`` after it was
  last written.

The **writer** (1) writes its intent, (2) lists the sweeps and waits until none *of those* is valid, and only then (3)
looks what exists, uploads the rest and writes the manifest or entry that refers to it, and (4) deletes its intent.
The **collector** (1) writes its sweep, (2) reads the intents, (3) *after* them reads the roots, (4) deletes what
neither names, (5) deletes its sweep.

Take any writer and any collector. The store is strongly consistent, so either the collector's reading of the intents
came after the intent was written, or before.

- *After, and the intent was there*: its keys are kept.
- *After, and the intent was deleted already*: then the referring manifest or entry was written before that, and the
  collector, which reads the roots after the intents, sees it.
- *Before*: the sweep was written earlier still, so the writer, which lists the sweeps after it wrote its intent, sees
  it and waits. When it looks what exists, the collector deletes no more.

A sweep that begins after the writer listed them reads its intent, so no writer waits for it: collections one after the
other can't starve a writer. And a collector ends its sweep soon after it sees that somebody waits
(``Sweep.writer_waits``), and begins another.

"Deletes no more" holds after a sweep object was deleted, and after it expired: a collector measures its age on clocks
that also count suspension, refreshes it in time from a thread, and stops deleting when it is, or once was, older than
``SWEEP_USABLE``; one delete request lasts at most twice ``DELETE_SECONDS`` and is not repeated, which is less than the
difference to ``SWEEP_VALID``. A sweep in which a delete failed is left to expire: the server may still carry it out.
Writers compare times the *store* gave to objects (the server, or the folder's file system): no machine's clock matters.
Several collectors at once are no problem: each one has its own sweep, and each deletes only what it may. A collector
that was killed holds writers up until its sweep expires.

An intent that a killed writer left behind keeps its keys for ``INTENT_VALID``. A writer that outlasts even that finds
its intent gone (``Intent.intact``) before it writes what refers to the blobs, and starts over. An intent that can't be
read may mean any key: for ``DAMAGED_INTENT_VALID`` nothing at all is deleted.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Generator, Iterable
from datetime import datetime, timedelta

from trainer.errors import DamagedObjectError, StoreError
from trainer.store.clock import time_of
from trainer.store.object_store import ObjectStore, damaged

INTENTS = "gc/intents/"
SWEEPS = "gc/sweeps/"
INTENT_VALID = timedelta(days=7)
DAMAGED_INTENT_VALID = timedelta(hours=1)
SWEEP_VALID = timedelta(seconds=20)
SWEEP_USABLE = timedelta(seconds=8)
DELETE_SECONDS = 5.0
"""To connect, and again for the answer."""
_SWEEP_REFRESH = timedelta(seconds=3)
_LOOK_FOR_WRITERS = timedelta(seconds=1)


class Intent:
    """A writer's announcement, while ``relying_on`` lasts."""

    def __init__(self, store: ObjectStore, key: str) -> None:
        self._store = store
        self.key = key

    def intact(self) -> bool:
        """Whether it still protects; False when the writer took longer than ``INTENT_VALID``."""
        return self._store.exists(self.key)


@contextlib.contextmanager
def relying_on(store: ObjectStore, keys: Iterable[str]) -> Generator[Intent]:
    """Protect ``keys``, existing or not, from garbage collection; look whether they exist only inside.

    Waits for the collections that are under way, not for those that begin meanwhile.
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
    written, started = time_of(store, intent_key), time.monotonic()
    before = {sweep.key for sweep in store.list(SWEEPS)}
    while before:
        # A clock of ours that runs slow (suspension) only makes the wait longer.
        now = written + timedelta(seconds=time.monotonic() - started)
        before &= {sweep.key for sweep in store.list(SWEEPS) if now - sweep.modified <= SWEEP_VALID}
        if before:
            time.sleep(0.1)


class Sweep:
    """A collector's announcement, until the block that it opens ends. ``check`` must be called before each delete."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._without_retries = store.without_retries(DELETE_SECONDS)
        self._key = f"{SWEEPS}{secrets.token_hex(12)}.json"
        self._written: tuple[float, ...] | None = None
        self._lapsed = False
        self._ended = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="pippa-sweep", daemon=True)
        self._write()
        self.now = time_of(store, self._key)
        """The store's time as the sweep began."""
        self._writers = {found.key for found in store.list(INTENTS)}
        self._looked = _clocks()
        self._in_doubt = False
        """A delete failed, and may yet happen."""

    def __enter__(self) -> Sweep:
        self._keeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._keeper.join()  # it must not write the announcement again
        if not self._in_doubt:
            self.end()

    def delete(self, key: str) -> None:
        """Delete an object, if this sweep still may; from any thread. Raises ``StoreError``."""
        self.check()
        try:
            self._without_retries.delete(key)
        except BaseException:
            self._in_doubt = True
            raise

    def writer_waits(self) -> bool:
        """Whether a writer has come since the sweep began; asks the store now and then."""
        if _age(self._looked) < _LOOK_FOR_WRITERS:
            return False
        self._looked = _clocks()
        return any(found.key not in self._writers for found in self._store.list(INTENTS))

    def check(self) -> None:
        """Raise ``StoreError`` when the announcement is, or was meanwhile, too old to delete anything."""
        if self._lapsed or self._written is None or _age(self._written) > SWEEP_USABLE:
            raise StoreError(
                "Garbage collection was interrupted for too long and stopped; nothing in use was touched.",
                "Run it again.",
            )

    def _keep(self) -> None:
        """Refresh the announcement: one listing of a slow store may take longer than it is valid."""
        while not self._ended.wait(_SWEEP_REFRESH.total_seconds()):
            with contextlib.suppress(StoreError):
                self._write()

    def end(self) -> None:
        """Let the writers continue."""
        with contextlib.suppress(StoreError):
            self._store.delete(self._key)

    def _write(self) -> None:
        # The clocks are read before the request: the store's time of the object is later, never earlier.
        before, clocks = self._written, _clocks()
        self._without_retries.write_json(self._key, {})
        # Measured after the new one has arrived: the one before may have expired on the way.
        self._lapsed = self._lapsed or (before is not None and _age(before) > SWEEP_USABLE)
        self._written = clocks


def _clocks() -> tuple[float, ...]:
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic(), time.time(), time.clock_gettime(boot) if boot is not None else 0.0


def _age(since: tuple[float, ...]) -> timedelta:
    """Time since ``_clocks()`` by the clock that advanced most, as some stop while the machine sleeps."""
    return timedelta(seconds=max(now - then for now, then in zip(_clocks(), since, strict=True)))


def intended_keys(
    store: ObjectStore, now: datetime, damage: list[DamagedObjectError] | None = None
) -> tuple[set[str], list[str]]:
    """The keys that live intents protect, and the intents that have expired.

    Raises ``DamagedObjectError`` for one that can't be read and may protect anything; with ``damage`` its error goes
    there.
    """
    keys: set[str] = set()
    expired: list[str] = []
    for found in store.list(INTENTS):
        if now - found.modified > INTENT_VALID:
            expired.append(found.key)
            continue
        try:
            keys.update(_keys_of(store, found.key))
        except DamagedObjectError as error:
            if now - found.modified > DAMAGED_INTENT_VALID:
                expired.append(found.key)
            elif damage is None:
                raise
            else:
                damage.append(error)
    return keys, expired


def _keys_of(store: ObjectStore, intent: str) -> list[str]:
    document = store.read_json(intent)
    keys = document.get("keys") if isinstance(document, dict) else None
    if document is not None and not (isinstance(keys, list) and all(isinstance(key, str) for key in keys)):
        raise damaged(intent, "it lists no keys", "It expires within an hour.")
    return keys or []
