from __future__ import annotations

import pytest

from tests.support.fake_engine import write
from trainer import outputs


@pytest.fixture
def checkpoint(tmp_path):
    write(tmp_path / "checkpoint-10", 10)
    return tmp_path / "checkpoint-10"


def test_a_whole_checkpoint_has_no_problem(checkpoint):
    assert outputs.problem(checkpoint, 10) is None


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
    assert says in (outputs.problem(checkpoint, 10) or "")
    assert outputs.newest(checkpoint.parent) is None


def test_checkpoints_come_in_the_order_of_steps(tmp_path):
    for name in ("checkpoint-100", "checkpoint-20", ".checkpoint-30", "checkpoint-x", "tmp-checkpoint-40"):
        (tmp_path / name).mkdir()
    assert list(outputs.checkpoints(tmp_path)) == [20, 100]
    assert outputs.checkpoints(tmp_path / "absent") == {}


def _cut(file):
    file.write_bytes(file.read_bytes()[:-1])
