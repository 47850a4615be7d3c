"""What only a folder has: a disk that fills up, other processes, file names, and links."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.trainer.store.conftest import a_spec, tree_of, variables_of
from trainer.errors import ExitCode, StoreError, UsageError
from trainer.store import gc, registry, snapshots
from trainer.store.folder import TEMPORARY, FolderStore
from trainer.store.hashing import hash_file
from trainer.store.object_store import FullStoreError, MissingObjectError
from trainer.store.s3 import S3Store
from trainer.store.stores import existing_store, open_store

ROOT = Path(__file__).parents[3]


@pytest.fixture
def object_store(tmp_path: Path) -> FolderStore:
    store = FolderStore(tmp_path / "home" / "store")
    store.create()
    return store


def unfinished(store: FolderStore) -> list[str]:
    return [path.name for path in (store.root / TEMPORARY).iterdir() if path.name != "lock"]


@contextmanager
def processes(store: FolderStore, code: str, count: int) -> Generator[list[subprocess.Popen[str]]]:
    """Python processes that run ``code`` with ``store``, and ``sys.argv[1]`` as their number."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", f"import os, sys\nfrom trainer.store.stores import open_store\n{code}", str(i)],
            env={**os.environ, **variables_of(store), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(count)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def test_the_settings_choose_the_store(tmp_path: Path) -> None:
    chosen = open_store({"PIPPA_HOME": str(tmp_path)})
    assert isinstance(chosen, FolderStore) and chosen.root == tmp_path / "store"
    assert list(tmp_path.iterdir()) == []
    keys = {"PIPPA_S3_ACCESS_KEY": "a", "PIPPA_S3_SECRET_KEY": "b"}
    assert isinstance(open_store({"PIPPA_S3_ENDPOINT": "http://minio:9000", **keys}), S3Store)
    with pytest.raises(StoreError, match="No keys"):
        open_store({"PIPPA_S3_ENDPOINT": "http://minio:9000"})
    with pytest.raises(StoreError, match="not the URL"):
        open_store({"PIPPA_S3_ENDPOINT": "minio:9000", **keys})


def test_the_layout_is_that_of_the_keys_and_for_its_owner_alone(object_store: FolderStore) -> None:
    object_store.write_json("runs/a/spec.json", {})
    folders = [object_store.root, *(path for path in object_store.root.rglob("*") if path.is_dir())]
    assert (object_store.root / "runs" / "a" / "spec.json").read_text() == "{}"
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o700}
    assert (object_store.root / "runs/a/spec.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "key", ["../out", "a/../../out", "/etc/passwd", "a//b", "a/", "", ".", "a/./b", "a\0b", ".tmp/lock", ".."]
)
def test_no_key_leaves_the_folder(object_store: FolderStore, tmp_path: Path, key: str) -> None:
    (tmp_path / "file").write_bytes(b"x")
    before = sorted(tmp_path.rglob("*"))
    for request in (
        lambda: object_store.write_bytes(key, b"x"),
        lambda: object_store.write_bytes(key, b"x", if_absent=True),
        lambda: object_store.put_file(tmp_path / "file", key, hashed=hash_file(tmp_path / "file")),
        lambda: object_store.read_bytes(key),
        lambda: list(object_store.stream(key)),
        lambda: object_store.info(key),
        lambda: object_store.delete(key),
    ):
        with pytest.raises(UsageError, match="can't be the key"):
            request()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_leads_nowhere(object_store: FolderStore, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.json").write_bytes(b"{}")
    object_store.write_bytes("runs/real", b"1")
    (object_store.root / "runs" / "file").symlink_to(tmp_path / "secret")
    (object_store.root / "runs" / "folder").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(object_store.root / "runs" / "pipe")  # a reader that opened it would wait
    assert [found.key for found in object_store.list("")] == ["runs/real"]
    for key in ("runs/file", "runs/pipe"):
        assert object_store.info(key) is None and object_store.read_bytes(key) is None
    for request in (
        lambda: object_store.read_bytes("runs/folder/x.json"),
        lambda: object_store.write_bytes("runs/folder/y.json", b""),
        lambda: object_store.delete("runs/folder/x.json"),
        lambda: list(object_store.list("runs/folder/")),
    ):
        with pytest.raises(StoreError, match="is a link, which is not followed"):
            request()
    object_store.write_bytes("runs/file", b"new")
    assert (tmp_path / "secret").read_bytes() == b"secret" and object_store.read_bytes("runs/file") == b"new"
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["x.json"]


def test_the_store_itself_may_be_a_link_to_a_larger_disk(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "disk")
    store = FolderStore(tmp_path / "store")
    store.create()
    store.write_bytes("a/b", b"1")
    assert (tmp_path / "disk" / "a" / "b").read_bytes() == b"1"
    assert [found.key for found in store.list("")] == ["a/b"]


def test_a_key_that_another_ones_folder_has_is_an_error_with_a_cure(object_store: FolderStore) -> None:
    object_store.write_bytes("a", b"1")
    with pytest.raises(StoreError, match="could not write a/b"):
        object_store.write_bytes("a/b", b"2")
    assert object_store.read_bytes("a/b") is None and object_store.read_bytes("a") == b"1"
    with pytest.raises(StoreError, match="File name too long"):
        object_store.write_bytes("x" * 300, b"")
    assert unfinished(object_store) == []


def test_editing_what_was_pulled_or_pushed_changes_no_blob(
    object_store: FolderStore, folder: Path, tmp_path: Path
) -> None:
    ref = snapshots.push(object_store, folder, "dataset", "tree").ref
    pulled = snapshots.pull(object_store, ref, tmp_path / "pulled")
    whole = tree_of(pulled)
    for root in (folder, pulled):
        for path in root.rglob("*"):
            if path.is_file() and not path.is_symlink():
                with path.open("r+b") as file:
                    file.write(b"edited in place")
    assert snapshots.verify(object_store, ref) == []
    assert tree_of(snapshots.pull(object_store, ref, tmp_path / "again")) == whole


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_folder_that_goes_away_while_a_file_is_written_is_not_made_again(
    object_store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = FolderStore._place

    def leave(self: FolderStore, *arguments: object, **options: object) -> bool:
        self.root.rename(self.root.parent / "unmounted")
        return place(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(FolderStore, "_place", leave)
    with pytest.raises(StoreError, match="is not there"):
        object_store.write_bytes("new/folder/document", b"content")
    assert not object_store.root.exists()


def test_a_folder_of_somebody_else_is_named() -> None:
    with tempfile.TemporaryDirectory() as home:
        Path(home).chmod(0o755)
        store = FolderStore(Path(home) / "store")
        store.create()
        store.write_bytes("a/b", b"1")
        code = f"""
import os
from pathlib import Path
from trainer.errors import StoreError
from trainer.store.folder import FolderStore
os.setgid(12345)
os.setuid(12345)
store = FolderStore(Path({str(store.root)!r}))
for request in (
    store.create,
    lambda: store.read_bytes("a/b"),
    lambda: store.write_bytes("c", b""),
    lambda: list(store.list("")),
):
    try:
        request()
    except StoreError as error:
        print(error.message, error.hint)
"""
        said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    lines = said.stdout.splitlines()
    assert len(lines) == 4, said.stderr
    assert all("Permission denied" in line and "ls -ld" in line for line in lines)


class TestFullDisk:
    """A real file system of 24 MB."""

    @pytest.fixture
    def disk(self, tmp_path: Path) -> Iterator[Path]:
        disk = tmp_path / "disk"
        disk.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], capture_output=True)
        if mounted.returncode:
            pytest.skip(f"can't mount a small disk: {mounted.stderr.decode().strip()}")
        yield disk
        subprocess.run(["umount", "--lazy", str(disk)], check=True)

    def test_it_is_said_nothing_is_left_and_the_next_call_works(self, disk: Path, tmp_path: Path) -> None:
        store = FolderStore(disk / "store")
        (tmp_path / "tree").mkdir()
        (tmp_path / "tree" / "large").write_bytes(os.urandom(16 << 20))
        (disk / "other").write_bytes(bytes(12 << 20))
        with pytest.raises(FullStoreError) as caught:
            snapshots.push(store, tmp_path / "tree", "dataset", "x")
        assert caught.value.exit_code == ExitCode.DISK_FULL and isinstance(caught.value, StoreError)
        assert str(store.root) in caught.value.message and "full" in caught.value.message
        hint = caught.value.hint
        assert hint.index("Free other space") < hint.index("`pippa checkpoints gc --keep 2 --delete`")
        assert unfinished(store) == [] and list(store.list("blobs/")) == list(store.list("snapshots/")) == []
        (disk / "other").unlink()
        ref = snapshots.push(store, tmp_path / "tree", "dataset", "x").ref
        assert snapshots.verify(store, ref) == []

    def test_a_small_write_fails_whole_and_what_was_there_stays(self, disk: Path) -> None:
        store = FolderStore(disk / "store")
        store.write_json("runs/a/state.json", {"step": 1})
        with pytest.raises(OSError), (disk / "other").open("wb") as file:
            while True:
                file.write(bytes(1 << 16))
        for if_absent in (False, True):
            with pytest.raises(FullStoreError):
                store.write_bytes("runs/a/log.txt", bytes(1 << 20), if_absent=if_absent)
        with pytest.raises(FullStoreError):
            store.write_bytes("runs/a/state.json", bytes(1 << 20))
        assert store.read_json("runs/a/state.json") == {"step": 1}
        store.delete("runs/a/state.json")
        assert [found.key for found in store.list("")] == [] and unfinished(store) == []

    def test_uploads_that_wait_go_through_once_there_is_space(self, disk: Path, tmp_path: Path) -> None:
        store = FolderStore(disk / "store")
        (tmp_path / "tree").mkdir()
        (tmp_path / "tree" / "large").write_bytes(os.urandom(16 << 20))
        (disk / "other").write_bytes(bytes(12 << 20))
        tries = 0
        while True:
            try:
                ref = snapshots.push(store, tmp_path / "tree", "checkpoint", "x").ref
                break
            except StoreError:  # as the uploader of checkpoints does
                tries += 1
                if tries == 3:
                    (disk / "other").unlink()
        assert tries == 3 and snapshots.verify(store, ref) == []


class TestProcesses:
    """Several real processes at once."""

    def test_one_of_many_creates_an_object(self, object_store: FolderStore) -> None:
        code = """
me = sys.argv[1]
for i in range(50):
    print(int(open_store().write_json(f"contested/{i}", {"writer": me}, if_absent=True)))
"""
        with processes(object_store, code, 4) as started:
            won = [list(map(int, process.communicate()[0].split())) for process in started]
        assert [sum(column) for column in zip(*won, strict=True)] == [1] * 50
        for i in range(50):
            winner = next(number for number, own in enumerate(won) if own[i])
            assert object_store.read_json(f"contested/{i}") == {"writer": str(winner)}

    def test_readers_see_whole_objects_and_listings_miss_none_while_they_are_replaced(
        self, object_store: FolderStore
    ) -> None:
        code = """
store, size, i = open_store(), 20_000, 0
while True:
    i += 1
    store.write_json(f"entries/{i % 40}.json", {"same": [i] * size})
    if i == 40:
        print("ready", flush=True)
"""
        with processes(object_store, code, 2) as started:
            for process in started:
                assert process.stdout is not None and process.stdout.readline() == "ready\n"
            deadline = time.monotonic() + 3
            while time.monotonic() < deadline:
                assert len(list(object_store.list("entries/"))) == 40
                document = object_store.read_json("entries/7.json")
                assert document is not None and len(set(document["same"])) == 1

    def test_the_same_snapshot_pushed_at_once_is_one(self, object_store: FolderStore, folder: Path) -> None:
        code = f"""
from pathlib import Path
from trainer.store import snapshots
print(snapshots.push(open_store(), Path({str(folder)!r}), "dataset", "same").ref.digest)
"""
        with processes(object_store, code, 4) as started:
            digests = {process.communicate()[0].strip() for process in started}
        (info,) = snapshots.list_snapshots(object_store)
        assert digests == {info.ref.digest} and snapshots.verify(object_store, info.ref) == []
        assert unfinished(object_store) == []

    def test_garbage_collection_beside_pushes_takes_nothing(self, object_store: FolderStore, folder: Path) -> None:
        code = f"""
from datetime import timedelta
from pathlib import Path
from trainer.store import gc, snapshots
store = open_store()
for i in range(6):
    if sys.argv[1] == "0":
        gc.collect(store, grace=timedelta(0))
    else:
        ref = snapshots.push(store, Path({str(folder)!r}), "dataset", f"push-{{sys.argv[1]}}-{{i}}").ref
        print(*snapshots.verify(store, ref), end="")
"""
        with processes(object_store, code, 3) as started:
            assert [process.communicate()[0] for process in started] == ["", "", ""]
            assert [process.returncode for process in started] == [0, 0, 0]

    def test_what_a_killed_writer_left_goes_and_a_living_ones_stays(self, object_store: FolderStore) -> None:
        code = """
import time
from pathlib import Path
from trainer.store.hashing import hash_file
path = Path(os.environ["PIPPA_HOME"]) / sys.argv[1]
path.write_bytes(bytes(40 << 20))
def advance(count):
    print("in the middle", flush=True)
    time.sleep(60)
open_store().put_file(path, f"blobs/{sys.argv[1]}", hashed=hash_file(path), advance=advance)
"""
        with processes(object_store, code, 2) as (killed, living):
            for process in (killed, living):
                assert process.stdout is not None and process.stdout.readline() == "in the middle\n"
            assert len(unfinished(object_store)) == 2
            killed.kill()
            killed.wait()
            FolderStore(object_store.root).create()
            assert len(unfinished(object_store)) == 1
        assert object_store.abort_uploads("", datetime.now(UTC)) == 1
        assert unfinished(object_store) == [] and list(object_store.list("")) == []


def test_a_registry_of_an_s3_server_can_be_copied_into_a_folder(s3_settings, object_store, folder, tmp_path) -> None:
    there, spec = S3Store(s3_settings), a_spec()
    ref = snapshots.push(there, folder, "checkpoint", spec.run_id).ref
    registry.register(there, registry.CheckpointEntry(run_id=spec.run_id, step=3, snapshot=ref, spec=spec))
    for found in there.list(""):
        target = object_store.root / found.key
        target.parent.mkdir(parents=True, exist_ok=True)
        there.get_file(found.key, target)
    entry = registry.resolve(object_store, "latest")
    assert entry.snapshot == ref and snapshots.verify(object_store, ref) == []
    assert gc.collect(object_store, dry_run=True).blobs == 0
    with pytest.raises(MissingObjectError):
        object_store.get_file("nothing", tmp_path / "nothing")
    assert json.loads((object_store.root / "aliases" / "latest.json").read_text())["checkpoint"] == entry.name


def test_in_an_image_a_folder_that_would_be_lost_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    inside = {"PIPPA_HOME": "/var/lib/pippa", "PIPPA_ENGINE": "native"}
    with pytest.raises(StoreError, match="lost with this container") as refused:
        open_store(inside)
    assert "docker run -v pippa:/var/lib/pippa" in refused.value.hint
    monkeypatch.setattr("trainer.store.stores._mount_points", lambda: {"/", "/var/lib/pippa"})
    assert open_store(inside).address == "/var/lib/pippa/store"


def test_what_reads_makes_no_folder_and_tells_one_that_went_away_from_one_that_never_was(tmp_path: Path) -> None:
    environ = {"PIPPA_HOME": str(tmp_path / "home")}
    with pytest.raises(UsageError, match="There is no checkpoint yet"):
        existing_store("checkpoint", environ)
    (tmp_path / "home" / "runs").mkdir(parents=True)
    with pytest.raises(StoreError, match="is not there; could not look for a checkpoint"):
        existing_store("checkpoint", environ)
    assert [each.name for each in (tmp_path / "home").iterdir()] == ["runs"]
