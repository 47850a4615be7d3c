"""What pippa asks of a store, S3 or folder."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from trainer.errors import StoreError
from trainer.store.hashing import hash_file
from trainer.store.object_store import MissingObjectError, ObjectStore


def put(store: ObjectStore, path: Path, key: str) -> None:
    store.put_file(path, key, hashed=hash_file(path))


def test_objects(object_store: ObjectStore, tmp_path: Path) -> None:
    assert object_store.read_bytes("a/b") is None
    assert object_store.size("a/b") is None
    assert not object_store.exists("a/b")
    object_store.write_bytes("a/b", b"12345")
    object_store.write_bytes("a/empty", b"")
    assert object_store.read_bytes("a/b") == b"12345"
    assert object_store.read_bytes("a/empty") == b""
    assert object_store.size("a/b") == 5
    assert b"".join(object_store.stream("a/b", 3)) == b"45"
    object_store.get_file("a/b", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"12345"
    object_store.delete("a/b")
    object_store.delete("a/b")
    assert not object_store.exists("a/b")
    with pytest.raises(MissingObjectError):
        object_store.get_file("a/b", tmp_path / "c")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_listing_is_whole_ordered_and_dated(object_store: ObjectStore) -> None:
    keys = [*sorted(f"many/{i % 7}/{i}" for i in range(60)), "other"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: object_store.write_bytes(key, b"x" * len(key)), keys))
    found = list(object_store.list("many/"))
    assert [each.key for each in found] == keys[:-1]
    assert all(each.size == len(each.key) for each in found)
    assert all(abs(each.modified - datetime.now(UTC)) < timedelta(minutes=2) for each in found)
    assert list(object_store.list("nothing/")) == []


@pytest.mark.parametrize("writers", [5, 20])
def test_conditional_write_has_one_winner(object_store: ObjectStore, writers: int) -> None:
    barrier = threading.Barrier(writers)

    def write(i: int) -> bool:
        barrier.wait()
        return object_store.write_json("contested", {"writer": i}, if_absent=True)

    with ThreadPoolExecutor(writers) as pool:
        won = list(pool.map(write, range(writers)))
    assert won.count(True) == 1
    assert object_store.read_json("contested") == {"writer": won.index(True)}
    # The winner's own repetition is no conflict: the answer to its first try may have been lost.
    assert object_store.write_json("contested", {"writer": won.index(True)}, if_absent=True)


def test_json_that_is_none_is_an_error_not_a_crash(object_store: ObjectStore) -> None:
    object_store.write_bytes("document", b"\xff{")
    with pytest.raises(StoreError, match=r"document .* damaged"):
        object_store.read_json("document")


@pytest.mark.parametrize("size", [0, 1, (32 << 20) + 7])
def test_files_come_back_as_they_went(object_store: ObjectStore, tmp_path: Path, size: int) -> None:
    (tmp_path / "in").write_bytes(os.urandom(size))
    put(object_store, tmp_path / "in", "file")
    object_store.get_file("file", tmp_path / "out")
    assert (tmp_path / "in").read_bytes() == (tmp_path / "out").read_bytes()


@pytest.mark.parametrize(
    ("size", "change"), [(1000, "byte"), (1000, "shorter"), (1000, "longer"), ((16 << 20) + 5, "byte")]
)
def test_a_file_that_changes_underneath_leaves_no_object(
    object_store: ObjectStore, tmp_path: Path, size: int, change: str
) -> None:
    path = tmp_path / "file"
    content = bytearray(os.urandom(size))
    path.write_bytes(content)
    hashed = hash_file(path)
    if change == "byte":
        content[-1] ^= 1
    path.write_bytes({"byte": content, "shorter": content[:-1], "longer": content + b"x"}[change])
    with pytest.raises(StoreError, match="changed while it was uploaded"):
        object_store.put_file(path, "file", hashed=hashed)
    assert not object_store.exists("file")


def test_pieces_of_a_large_object_come_in_order_from_anywhere(object_store: ObjectStore, tmp_path: Path) -> None:
    content = os.urandom((50 << 20) + 7)
    (tmp_path / "in").write_bytes(content)
    put(object_store, tmp_path / "in", "file")
    for offset in (0, 5, 16 << 20, len(content) - 1):
        pieces = [bytes(piece) for piece in object_store.stream("file", offset, len(content))]
        assert b"".join(pieces) == content[offset:]
    # An object that is shorter than it should be ends early; nothing waits for the rest.
    for size in (len(content) + 1, len(content) + (40 << 20)):
        assert b"".join(bytes(piece) for piece in object_store.stream("file", 0, size)) == content
    # Left in the middle, nothing is kept from the next one.
    for _ in range(3):
        piece = bytes(next(iter(object_store.stream("file", 0, len(content)))))
        assert content.startswith(piece) and len(piece) >= 1 << 20
