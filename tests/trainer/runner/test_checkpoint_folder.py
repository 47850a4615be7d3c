from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.support.fake_engine import write
from trainer.runner import checkpoint_folder


@pytest.fixture
def checkpoint(tmp_path):
    write(tmp_path / "checkpoint-10", 10)
    return tmp_path / "checkpoint-10"


def test_a_whole_checkpoint_has_no_problem(checkpoint):
    assert checkpoint_folder.problem(checkpoint, 10) is None


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "trainer_state.json").unlink(), "FileNotFoundError"),
        (lambda folder: (folder / "trainer_state.json").write_text('{"global_step": 9}'), "of step 9"),
        (lambda folder: (folder / "trainer_state.json").write_text("[]"), "AttributeError"),
        (lambda folder: (folder / "model-00002-of-00002.safetensors").unlink(), "which is missing"),
        (lambda folder: (folder / "model-00002-of-00002.safetensors").write_bytes(b""), "is not a safetensors file"),
        (lambda folder: _cut(folder / "model-00001-of-00002.safetensors"), "instead of"),
    ],
)
def test_damage_is_seen(checkpoint, damage, says):
    damage(checkpoint)
    assert says in (checkpoint_folder.problem(checkpoint, 10) or "")
    assert checkpoint_folder.newest(checkpoint.parent) is None


@pytest.mark.parametrize("file", ["trainer_state.json", "model.safetensors.index.json"])
def test_a_disk_in_trouble_says_nothing_about_a_checkpoint(checkpoint, monkeypatch, file):
    real = Path.read_text

    def stale(path, *arguments, **options):
        if path.name == file:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", stale)
    for look in (
        lambda: checkpoint_folder.problem(checkpoint, 10),
        lambda: checkpoint_folder.newest(checkpoint.parent),
    ):
        with pytest.raises(OSError, match=file):
            look()


def test_a_file_in_the_place_of_a_checkpoint_is_none(tmp_path):
    (tmp_path / "checkpoint-10").touch()
    assert "NotADirectoryError" in (checkpoint_folder.problem(tmp_path / "checkpoint-10", 10) or "")


def test_checkpoints_come_in_the_order_of_steps(tmp_path):
    for name in ("checkpoint-100", "checkpoint-20", ".checkpoint-30", "checkpoint-x", "tmp-checkpoint-40"):
        (tmp_path / name).mkdir()
    assert list(checkpoint_folder.checkpoints(tmp_path)) == [20, 100]
    assert checkpoint_folder.checkpoints(tmp_path / "absent") == {}


def _cut(file):
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_training_goes_on_from_a_whole_state_only(checkpoint, file):
    assert checkpoint_folder.resume_problem(checkpoint, 10) is None
    content = (checkpoint / file).read_bytes()
    (checkpoint / file).write_bytes(content[:-1])
    assert f"{file} is cut off" in (checkpoint_folder.resume_problem(checkpoint, 10) or "")
    (checkpoint / file).unlink()
    assert f"{file} is missing" in (checkpoint_folder.resume_problem(checkpoint, 10) or "")
    # A policy it is all the same.
    assert checkpoint_folder.problem(checkpoint, 10) is None
