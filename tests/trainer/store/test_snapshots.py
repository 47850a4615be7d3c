"""Snapshots against real servers: what comes back is what went in, and nothing broken is ever seen."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import string
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.fake_store import FakeStore
from tests.support.waiting import until
from tests.trainer.store.conftest import tree_of, variables_of
from trainer.config.run_spec import SnapshotRef
from trainer.config.settings import S3Settings
from trainer.errors import DiskFullError, StoreError, UsageError
from trainer.store import hashing, registry, snapshots
from trainer.store.hashing import HashCache
from trainer.store.manifest import FileRecord, Manifest, blob_key, manifest_key, parse_manifest_key, read_manifest
from trainer.store.object_store import ObjectStore
from trainer.store.s3 import S3Store


def push(store: ObjectStore, folder: Path, name: str = "team/demo") -> SnapshotRef:
    return snapshots.push(store, folder, "dataset", name).ref


def blob_of(store: ObjectStore, ref: SnapshotRef, path: str) -> str:
    return blob_key(next(file.sha256 for file in read_manifest(store, ref).files if file.path == path))


def test_a_pulled_folder_is_byte_identical(object_store: ObjectStore, folder: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def progress(done: int, of: int) -> None:
        seen.append((done, of))

    result = snapshots.push(
        object_store,
        folder,
        "dataset",
        "team/demo",
        origin={"from": "here"},
        progress=progress,
    )
    expected = tree_of(folder)
    assert result.files == len(expected)
    assert result.bytes_total == sum(map(len, expected.values()))
    assert seen[-1][0] == seen[-1][1] == result.bytes_uploaded  # "twice" three times, sent once
    assert result.bytes_total - result.bytes_uploaded == 10
    seen.clear()
    pulled = snapshots.pull(object_store, result.ref, tmp_path / "out", progress=progress)
    assert tree_of(pulled) == expected
    assert seen[-1] == (result.bytes_total, result.bytes_total)
    assert not any(path.is_symlink() for path in pulled.rglob("*"))
    assert snapshots.verify(object_store, result.ref) == []
    again = snapshots.push(object_store, pulled, "dataset", "elsewhere")
    assert (again.bytes_uploaded, again.ref.digest) == (0, result.ref.digest)
    (info,) = [info for info in snapshots.list_snapshots(object_store) if info.ref == result.ref]
    assert (info.files, info.bytes_total, info.origin) == (result.files, result.bytes_total, {"from": "here"})


def test_latest_is_the_one_pushed_last(object_store: ObjectStore, tmp_path: Path) -> None:
    assert snapshots.latest(object_store, "dataset", "a") is None
    refs = []
    for content in ("1", "2", "3"):
        (tmp_path / "d").mkdir(exist_ok=True)
        (tmp_path / "d" / "file").write_text(content)
        refs.append(push(object_store, tmp_path / "d", "a"))
        push(object_store, tmp_path / "d", "a/b")
        assert snapshots.latest(object_store, "dataset", "a") == refs[-1]
    (tmp_path / "d" / "file").write_text("1")
    push(object_store, tmp_path / "d", "a")
    assert snapshots.latest(object_store, "dataset", "a") == refs[0]
    assert len(snapshots.list_snapshots(object_store, "dataset")) == 6
    assert snapshots.list_snapshots(object_store, "model") == []


def test_ignored_files_stay_out(object_store: ObjectStore, folder: Path, tmp_path: Path) -> None:
    result = snapshots.push(
        object_store, folder, "model", "m", ignore=lambda path: path == "videos" or path.startswith(".")
    )
    pulled = snapshots.pull(object_store, result.ref, tmp_path / "out")
    assert {path for path in tree_of(folder) if not path.startswith(("videos", "."))} == tree_of(pulled).keys()


def test_a_file_is_read_once_unless_it_was_written_since(object_store: ObjectStore, tmp_path: Path) -> None:
    remembered, read = HashCache(), []
    hash_file = hashing.hash_file

    def pushed(name: str) -> set[str]:
        result = snapshots.push(object_store, tmp_path / name, "model", name, hash_file=remembered)
        return {file.sha256 for file in read_manifest(object_store, result.ref).files}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hashing, "hash_file", lambda path: read.append(path.name) or hash_file(path))
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "frozen").write_text("frozen")
        (tmp_path / "a" / "tuned").write_text("one")
        first = pushed("a")
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "frozen").hardlink_to(tmp_path / "a" / "frozen")
        (tmp_path / "b" / "tuned").write_text("two")
        second = pushed("b")
        (tmp_path / "a" / "tuned").write_text("six")
        third = pushed("a")
    assert sorted(read) == ["frozen", "tuned", "tuned", "tuned"]
    assert {len(first), len(first & second), len(first & third), len(second & third)} == {2, 1}
    assert third == {hashlib.sha256(text).hexdigest() for text in (b"frozen", b"six")}


def test_a_flipped_byte_is_named_by_verify_and_refused_by_pull(
    object_store: ObjectStore, folder: Path, tmp_path: Path
) -> None:
    ref = push(object_store, folder)
    key = blob_of(object_store, ref, "meta/info.json")
    content = bytearray(object_store.read_bytes(key) or b"")
    content[3] ^= 1
    object_store.write_bytes(key, bytes(content))
    (problem,) = snapshots.verify(object_store, ref)
    assert "meta/info.json" in problem
    with pytest.raises(StoreError, match=r"meta/info.json .* damaged"):
        snapshots.pull(object_store, ref, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_and_short_blobs_are_named_and_healed_by_pushing_again(
    object_store: ObjectStore, folder: Path, tmp_path: Path
) -> None:
    ref = push(object_store, folder)
    object_store.delete(blob_of(object_store, ref, "meta/info.json"))
    object_store.write_bytes(blob_of(object_store, ref, "same"), b"twi")
    problems = " ".join(snapshots.verify(object_store, ref))
    assert "meta/info.json: blob" in problems
    assert "same again: 3 bytes instead of 5" in problems
    with pytest.raises(StoreError, match=r"missing|damaged"):
        snapshots.pull(object_store, ref, tmp_path / "out")
    push(object_store, folder)
    assert snapshots.verify(object_store, ref) == []


def test_an_interrupted_pull_goes_on_where_it_stopped(object_store: ObjectStore, folder: Path, tmp_path: Path) -> None:
    ref = push(object_store, folder)
    key = blob_of(object_store, ref, "meta/info.json")
    content = object_store.read_bytes(key) or b""
    object_store.delete(key)
    with pytest.raises(StoreError):
        snapshots.pull(object_store, ref, tmp_path / "out")
    object_store.write_bytes(key, content)
    partial = tmp_path / f".out.{ref.digest[:12]}.partial"
    whole = (folder / "parts").read_bytes()
    (partial / "parts").write_bytes(whole[:1_000_000])
    (partial / "same").write_bytes(b"wrong, and longer")
    read = []
    original = object_store.stream
    object_store.stream = lambda key, *where: read.append((key, *where[:1])) or original(key, *where)  # pyrefly: ignore
    assert tree_of(snapshots.pull(object_store, ref, tmp_path / "out")) == tree_of(folder)
    assert (blob_of(object_store, ref, "parts"), 1_000_000) in read


def test_pulling_again_needs_no_server_and_never_overwrites(
    object_store: ObjectStore, folder: Path, tmp_path: Path, s3_settings: S3Settings
) -> None:
    ref = push(object_store, folder)
    out = snapshots.pull(object_store, ref, tmp_path / "out")
    nobody = S3Store(s3_settings.model_copy(update={"endpoint": "http://127.0.0.1:9"}), patience=0)
    assert snapshots.pull(nobody, ref, out) == out
    (out / "more").write_text("the user's own")
    assert snapshots.pull(nobody, ref, out) == out
    (out / "same").write_text("changed by the user")
    with pytest.raises(UsageError, match="changed since it was pulled: same"):
        snapshots.pull(object_store, ref, out)
    with pytest.raises(UsageError, match="holds team/demo"):
        snapshots.pull(object_store, ref.model_copy(update={"digest": "0" * 64}), out)
    with pytest.raises(UsageError, match="not pulled from the object store"):
        snapshots.pull(object_store, ref, folder)
    assert (out / "same").read_text() == "changed by the user"


def test_concurrent_pulls_of_one_snapshot(object_store: ObjectStore, folder: Path, tmp_path: Path) -> None:
    ref = push(object_store, folder)
    with ThreadPoolExecutor(4) as pool:
        outs = list(pool.map(lambda _: snapshots.pull(object_store, ref, tmp_path / "out"), range(4)))
    assert tree_of(outs[0]) == tree_of(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.snapshot", "out", "tree"]


def test_no_space_is_said_before_anything_is_fetched(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FakeStore()
    ref = push(store, folder)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(DiskFullError, match="B are free"):
        snapshots.pull(store, ref, tmp_path / "out")
    assert not (tmp_path / "out").exists()


class TestRefusals:
    """What a snapshot can't hold, said with its path."""

    @pytest.mark.parametrize(
        ("make", "said"),
        [
            (lambda root: (root / "x").symlink_to(root / "nowhere"), "Can't read"),
            (lambda root: (root / "x").symlink_to(root), "a link to a folder"),
            (lambda root: os.mkfifo(root / "x"), "not a regular file"),
            (lambda root: Path(os.fsdecode(bytes(root / "x") + b"\xff")).write_text(""), "not valid UTF-8"),
        ],
    )
    def test_odd_files(self, tmp_path: Path, make: object, said: str) -> None:
        make(tmp_path)  # pyrefly: ignore
        with pytest.raises(UsageError, match=said):
            push(FakeStore(), tmp_path)

    @pytest.mark.parametrize("name", ["", "/a", "a/", "a//b", "../a", "a/../b", ".a", "a b", "a\n"])
    def test_names(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(UsageError, match="can't name a snapshot"):
            push(FakeStore(), tmp_path, name)

    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="no folder"):
            push(FakeStore(), tmp_path / "nothing")

    @pytest.mark.parametrize("path", ["../evil", "/etc/evil", "a/../../evil", "a//b", "", ".", "a/", "a\0"])
    def test_a_malicious_manifest_writes_nothing_outside(self, tmp_path: Path, path: str) -> None:
        store = FakeStore()
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "file").write_text("x")
        ref = push(store, tmp_path / "in")
        document: Any = store.read_json(manifest_key(ref))
        document["files"][0]["path"] = path
        rows = [[path, 1, document["files"][0]["sha256"]]]
        digest = hashlib.sha256(json.dumps(rows, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()
        document["digest"] = digest
        forged = ref.model_copy(update={"digest": digest})
        store.write_json(manifest_key(forged), document)
        with pytest.raises(StoreError, match="relative path inside"):
            snapshots.pull(store, forged, tmp_path / "deep" / "out")
        assert sorted(each.name for each in tmp_path.rglob("*") if each.is_file()) == [".out.snapshot", "file"]

    def test_a_manifest_of_something_else_is_refused(self, tmp_path: Path) -> None:
        store = FakeStore()
        (tmp_path / "file").write_text("x")
        ref = push(store, tmp_path)
        other = ref.model_copy(update={"digest": "1" * 64})
        store.write_json(manifest_key(other), store.read_json(manifest_key(ref)))
        with pytest.raises(StoreError, match="it is that of"):
            read_manifest(store, other)


def test_a_failing_upload_stops_the_others_and_shows_nothing(tmp_path: Path) -> None:
    class Failing(FakeStore):
        def put_file(self, path: Path, key: str, **options: object) -> None:  # pyrefly: ignore
            if path.name == "5":
                raise StoreError("no more")
            super().put_file(path, key, **options)  # pyrefly: ignore

    for i in range(40):
        (tmp_path / str(i)).write_text(str(i))
    store = Failing()
    before = threading.active_count()
    with pytest.raises(StoreError, match="no more"):
        push(store, tmp_path)
    assert not [key for key in store.objects if not key.startswith("blobs/")]
    assert threading.active_count() == before


# A name of one path component that POSIX allows and UTF-8 can say.
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..") and len(name.encode()) < 200
)
TREES = st.dictionaries(st.lists(NAMES, min_size=1, max_size=3).map(tuple), st.binary(max_size=40), max_size=8)


def build(root: Path, files: dict[tuple[str, ...], bytes]) -> dict[str, bytes]:
    """Write the files that fit together, and return them by path."""
    root.mkdir()
    written = {}
    for parts, content in files.items():
        target = root.joinpath(*parts)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        except (NotADirectoryError, FileExistsError, IsADirectoryError):
            continue
        written["/".join(parts)] = content
    return written


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=TREES)
def test_any_tree_comes_back(tmp_path_factory: pytest.TempPathFactory, files: dict[tuple[str, ...], bytes]) -> None:
    base = tmp_path_factory.mktemp("tree")
    written = build(base / "in", files)
    store = FakeStore()
    ref = push(store, base / "in")
    assert tree_of(snapshots.pull(store, ref, base / "out")) == written
    assert push(store, base / "out", "other").digest == ref.digest
    assert parse_manifest_key(manifest_key(ref)) == ref


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=TREES)
def test_any_tree_comes_back_from_a_real_server(
    object_store: ObjectStore, tmp_path_factory: pytest.TempPathFactory, files: dict[tuple[str, ...], bytes]
) -> None:
    base = tmp_path_factory.mktemp("tree")
    written = build(base / "in", files)
    ref = push(object_store, base / "in")
    assert tree_of(snapshots.pull(object_store, ref, base / "out")) == written


RECORDS = st.lists(
    st.fixed_dictionaries(
        {
            "path": NAMES,
            "size": st.integers(0, 1 << 50),
            "sha256": st.text(string.digits + "abcdef", min_size=64, max_size=64),
        }
    ),
    unique_by=lambda record: record["path"],
    max_size=6,
)


@given(records=RECORDS, seed=st.randoms())
def test_the_digest_is_that_of_the_files_in_any_order(records: list[dict[str, object]], seed: random.Random) -> None:
    files = [FileRecord.model_validate(record) for record in records]
    manifest = Manifest.of("dataset", "a", files, {})
    seed.shuffle(files)
    other = Manifest.of("model", "b", files, {"from": "elsewhere"})
    assert other.digest == manifest.digest
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest
    if files:
        changed = [files[0].model_copy(update={"size": files[0].size + 1}), *files[1:]]
        assert Manifest.of("dataset", "a", changed, {}).digest != manifest.digest


# Pushes and registers checkpoints of one run without end; the parent kills it.
UPLOADER = """
import os, sys
from pathlib import Path
from tests.trainer.store.conftest import a_spec
from trainer.store import registry, snapshots
from trainer.store.stores import open_store
store, folder, spec = open_store(), Path(sys.argv[1]), a_spec()
print("ready", flush=True)
for step in range(1, 1000):
    for i in range(20):
        (folder / str(i)).write_bytes(os.urandom(50_000))
    (folder / "large").write_bytes(os.urandom((16 << 20) + step))
    ref = snapshots.push(store, folder, "checkpoint", spec.run_id).ref
    registry.register(store, registry.CheckpointEntry(run_id=spec.run_id, step=step, snapshot=ref, spec=spec))
"""


def test_kill_9_never_shows_a_broken_checkpoint(object_store: ObjectStore, tmp_path: Path) -> None:
    environ = {**os.environ, **variables_of(object_store), "PYTHONPATH": str(Path(__file__).parents[3])}
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        process = subprocess.Popen(
            [sys.executable, "-c", UPLOADER, str(folder)], env=environ, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        until(lambda: list(object_store.list("blobs/")))
        time.sleep(random.uniform(0, 1.5))
        process.kill()
        process.wait()
        process.stdout.close()
    assert list(object_store.list("blobs/")), "killed too early to tell anything"
    entries = registry.list_checkpoints(object_store)
    for ref in {entry.snapshot for entry in entries} | {info.ref for info in snapshots.list_snapshots(object_store)}:
        assert snapshots.verify(object_store, ref) == []
    for entry in entries:
        assert registry.resolve(object_store, entry.name) == entry
