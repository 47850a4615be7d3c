"""What was found out about a file counts as long as the file is the same, and no longer."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.support.so101_cases import CONFIG, make, mp4, parquet
from trainer.config.data_options import DataOptions
from trainer.data import result_cache as memory_module
from trainer.data.checks import check_dataset
from trainer.data.checks.episode import EpisodeCheck
from trainer.data.frame_indices import remembered_index
from trainer.data.result_cache import ResultCache


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "data.sqlite"


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as settled at once."""
    monkeypatch.setattr(memory_module, "_SETTLED_SECONDS", -1)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def reads(memory: ResultCache, file: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often the file is read to tell its hash."""
    times = []
    whole = hashlib.file_digest
    with monkeypatch.context() as patched:
        patched.setattr(hashlib, "file_digest", lambda *args: times.append(1) or whole(*args))
        assert memory.sha256(file) == sha256(file.read_bytes())
    return len(times)


def test_a_file_is_hashed_once(database, tmp_path, settled, monkeypatch):
    file = tmp_path / "file"
    file.write_bytes(b"content")
    assert reads(ResultCache(database), file, monkeypatch) == 1
    assert reads(ResultCache(database), file, monkeypatch) == 0
    assert ResultCache(database).knows(file)


def test_a_file_that_changed_is_hashed_again_though_its_time_was_set_back(database, tmp_path, settled, monkeypatch):
    file = tmp_path / "file"
    file.write_bytes(b"content")
    before = file.stat()
    ResultCache(database).sha256(file)
    time.sleep(0.02)
    file.write_bytes(b"CONTENT")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not ResultCache(database).knows(file)
    assert reads(ResultCache(database), file, monkeypatch) == 1


def test_another_file_under_the_same_name_is_hashed(database, tmp_path, settled, monkeypatch):
    file, other = tmp_path / "file", tmp_path / "other"
    file.write_bytes(b"content")
    ResultCache(database).sha256(file)
    other.write_bytes(b"CONTENT")
    other.replace(file)
    assert reads(ResultCache(database), file, monkeypatch) == 1


def test_a_file_that_has_just_changed_is_not_trusted_later(database, tmp_path, monkeypatch):
    """It may change again within one tick of the file system's clock, and look the same."""
    file = tmp_path / "file"
    file.write_bytes(b"content")
    memory = ResultCache(database)
    assert reads(memory, file, monkeypatch) == 1 and reads(memory, file, monkeypatch) == 0
    assert reads(ResultCache(database), file, monkeypatch) == 1


@pytest.mark.parametrize("content", [b"", b"not a database", b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_memory_is_begun_again(database, tmp_path, settled, content):
    database.parent.mkdir()
    database.write_bytes(content)
    ResultCache(database).put("key", b"value")
    assert ResultCache(database).get("key") == b"value"


def test_a_memory_that_can_not_be_written_is_done_without(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    memory = ResultCache(tmp_path / "file" / "data.sqlite")
    memory.put("key", b"value")
    assert memory.get("key") is None and memory.sha256(tmp_path / "file") == sha256(b"x")


def test_nothing_is_made_before_there_is_something_to_remember(database):
    assert ResultCache(database).get("key") is None
    assert not database.parent.exists()


def test_what_nobody_asks_for_goes(database, monkeypatch):
    ResultCache(database).put("key", b"value")
    today = memory_module._today()
    monkeypatch.setattr(memory_module, "_today", lambda: today + 89)
    assert ResultCache(database).get("key") == b"value"
    monkeypatch.setattr(memory_module, "_today", lambda: today + 200)
    assert ResultCache(database).get("key") is None


class Counted:
    """Counts the passes over a dataset's tables."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.episodes = 0
        whole = EpisodeCheck.look

        def counted(*arguments):
            self.episodes += 1
            return whole(*arguments)

        monkeypatch.setattr(EpisodeCheck, "look", counted)

    def check(self, path: Path, database: Path, **options) -> int:
        before = self.episodes
        found = check_dataset(path, CONFIG, options=DataOptions(**options), memory=ResultCache(database))
        assert not found.problems and found.statistics
        return self.episodes - before


def test_what_was_checked_is_not_checked_again(database, tmp_path, monkeypatch):
    folder, counted = make(tmp_path / "a" / "data"), Counted(monkeypatch)
    assert [counted.check(folder, database) for _ in range(2)] == [2, 0]
    # By content: a copy is the same dataset, wherever it is; other options are another check.
    copy = Path(shutil.copytree(folder, tmp_path / "b" / "data"))
    assert counted.check(copy, database) == 0
    assert [counted.check(copy, database, video_alignment="index") for _ in range(2)] == [2, 0]
    table = pq.read_table(parquet(copy, 1))
    pq.write_table(table.replace_schema_metadata({"edited": "once"}), parquet(copy, 1))
    assert [counted.check(copy, database) for _ in range(2)] == [2, 0]
    assert counted.check(folder, database) == 0


def test_warnings_are_remembered_with_the_folder_they_are_of_now(database, tmp_path):
    folder = make(tmp_path / "a")
    (folder / "meta/tasks.jsonl").write_text('{"task_index": 0, "task": ""}\n')
    first = check_dataset(folder, CONFIG, memory=ResultCache(database)).warnings
    folder.rename(tmp_path / "b")
    second = check_dataset(tmp_path / "b", CONFIG, memory=ResultCache(database)).warnings
    assert [each.message.replace("/a/", "/b/") for each in first] == [each.message for each in second]
    assert str(tmp_path / "b") in second[-1].message


def test_what_was_refused_is_looked_at_again(database, tmp_path):
    folder = make(tmp_path / "data")
    good = mp4(folder, 1, "front").read_bytes()
    mp4(folder, 1, "front").write_bytes(good[:-500])
    for _ in range(2):
        assert check_dataset(folder, CONFIG, memory=ResultCache(database)).problems
    mp4(folder, 1, "front").write_bytes(good)
    assert not check_dataset(folder, CONFIG, memory=ResultCache(database)).problems


def test_a_videos_packets_are_read_once(database, tmp_path, monkeypatch):
    video = mp4(make(tmp_path / "data"), 0, "front")
    first = remembered_index(video, ResultCache(database))
    monkeypatch.setattr("trainer.data.frame_indices.index_frames", None)
    again = remembered_index(video, ResultCache(database))
    np.testing.assert_array_equal(first.pts, again.pts)
    assert (first.time_base, first.keyframes) == (again.time_base, again.keyframes)


def test_what_another_version_found_out_does_not_count(database, tmp_path, monkeypatch):
    folder, counted = make(tmp_path / "data"), Counted(monkeypatch)
    assert counted.check(folder, database) == 2
    monkeypatch.setattr("trainer.data.checks.remembered.version", lambda: "another")
    assert counted.check(folder, database) == 2


def test_many_processes_may_remember_at_once(database, tmp_path):
    code = (
        "import sys; from pathlib import Path; from trainer.data.result_cache import ResultCache\n"
        "memory = ResultCache(Path(sys.argv[1]))\n"
        "for number in range(100): memory.put(f'{sys.argv[2]} {number}', b'x')"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(database), name]) for name in "abc"]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0, 0]
    (count,) = sqlite3.connect(database).execute("SELECT count(*) FROM found").fetchone()
    assert count == 300
