"""One damaged object hurts only what needs it: reading many gives the good ones, and says which are not."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import TypeVar

from trainer.errors import DamagedObjectError, StoreError
from trainer.store.object_store import DOCUMENT_BYTES, ObjectStore
from trainer.store.parallel import LOOKUPS, for_each

Item = TypeVar("Item")
Document = TypeVar("Document")

QUARANTINE = "quarantine/"
"""Where a damaged document is moved to, under its own key."""
_BLOB_NOTES = "damaged/"
"""Names of blobs that were found damaged, each an empty object."""


def read_good(
    read: Callable[[Item], Document | None], items: Iterable[Item], found: list[DamagedObjectError] | None
) -> list[Document]:
    """``read`` of each item, several at once, in their order: what is missing (None) or damaged is left out.

    The damage goes into ``found``.
    """

    def attempt(item: Item) -> Document | DamagedObjectError | None:
        try:
            return read(item)
        except DamagedObjectError as error:
            return error

    results = for_each(attempt, items, workers=LOOKUPS)
    if found is not None:
        found += [each for each in results if isinstance(each, DamagedObjectError)]
    return [each for each in results if each is not None and not isinstance(each, DamagedObjectError)]


def quarantine(store: ObjectStore, key: str) -> None:
    """Move a damaged document out of the way; what it held stays under ``quarantine/``.

    Raises ``DamagedObjectError`` for one that is too large to be a document.
    """
    content = store.read_bytes(key, DOCUMENT_BYTES)
    if content is not None:
        store.write_bytes(f"{QUARANTINE}{key}", content)
        store.delete(key)


def note_damaged_blob(store: ObjectStore, sha256: str) -> None:
    """Tell all who push that this blob was read and is not what its name says, so that they send it again."""
    with contextlib.suppress(StoreError):  # the finder may have read access only
        store.write_bytes(f"{_BLOB_NOTES}{sha256}", b"")


def forget_damaged_blob(store: ObjectStore, sha256: str) -> None:
    """The blob is what its name says again."""
    store.delete(f"{_BLOB_NOTES}{sha256}")


def damaged_blobs(store: ObjectStore) -> set[str]:
    """The SHA-256 of every blob that was found damaged and has not been sent again."""
    return {found.key.removeprefix(_BLOB_NOTES) for found in store.list(_BLOB_NOTES)}
