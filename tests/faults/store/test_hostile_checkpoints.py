"""A checkpoint that a stranger made runs no code and reads nothing outside its folder."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.support.training import small_training, tiny_with_dropout
from tests.trainer.training.conftest import shortened
from trainer.errors import DamagedObjectError, UsageError
from trainer.gr00t.weights import _shards
from trainer.runner import checkpoint_folder
from trainer.store import snapshots
from trainer.store.folder import FolderStore
from trainer.store.manifest import FileRecord, manifest_key


class Payload:
    """Leaves a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (eval, (f"open({str(self.mark)!r}, 'w').close()",))


def test_no_pickle_of_a_checkpoint_is_run_when_a_training_goes_on_from_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PIPPA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    data, model = shortened(tmp_path / "data", [4, 4], seed=0), tiny_with_dropout(tmp_path / "tiny")
    training = small_training(tmp_path / "run", data, model, max_steps=2, save_steps=2)
    assert training.run() == 0
    checkpoint, mark = tmp_path / "run" / "checkpoint-2", tmp_path / "was run"
    pickle.loads(pickle.dumps(Payload(mark)))
    assert mark.exists()  # it would be seen
    mark.unlink()
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        file = checkpoint / name
        before = file.read_bytes()
        torch.save({"state": Payload(mark), "python": Payload(mark)}, file)
        with pytest.raises(UsageError, match="can't be loaded") as refused:
            training.run(resume=True, max_steps=3)
        assert "nothing of it was run" in refused.value.hint
        file.write_bytes(pickle.dumps(Payload(mark)))  # as torch saved before 1.6
        with pytest.raises(UsageError, match="is not whole"):
            training.run(resume=True, max_steps=3)
        file.write_bytes(before)
    torch.save(Payload(mark), checkpoint / "training_args.bin")
    assert training.run(resume=True, max_steps=3, save_steps=3) == 0
    assert not mark.exists()


def test_an_index_names_files_of_its_folder_only(tmp_path):
    save_file({"secret": torch.ones(1)}, tmp_path / "outside.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("../outside.safetensors", str(tmp_path / "outside.safetensors"), "a/../../outside.safetensors"):
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"secret": name}}))
        with pytest.raises(UsageError, match="is not an index"):
            _shards(folder)


HEADERS = {
    "longer than the file": struct.pack("<Q", 1 << 62),
    "no JSON": struct.pack("<Q", 8) + b"notjson!",
    "deep": struct.pack("<Q", 100_000) + b"[" * 100_000,
    "a list": struct.pack("<Q", 2) + b"[]",
    "no offsets": struct.pack("<Q", 12) + b'{"a": {"b":1}'[:12],
    "offsets of text": struct.pack("<Q", 31) + b'{"a": {"data_offsets": ["a"]}}  ',
    "empty": b"",
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_a_hostile_header_is_a_problem_of_the_checkpoint_and_nothing_else(tmp_path, header):
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    (folder / "trainer_state.json").write_text('{"global_step": 1}')
    (folder / "model.safetensors").write_bytes(header)
    assert checkpoint_folder.problem(folder, 1)


def test_nothing_is_written_through_a_link_in_a_pulled_tree(tmp_path):
    """A manifest can't hold links, and a link put in the place of a file of the store is no object."""
    store, outside = FolderStore(tmp_path / "store"), tmp_path / "outside"
    outside.mkdir()
    made = tmp_path / "made"
    (made / "sub").mkdir(parents=True)
    (made / "sub" / "a").write_bytes(b"content")
    ref = snapshots.push(store, made, "dataset", "data").ref
    blob = next((store.root / "blobs").rglob("*/*/*"))
    blob.unlink()
    (outside / "secret").write_bytes(b"content")
    blob.symlink_to(outside / "secret")
    with pytest.raises(DamagedObjectError, match="is missing"):
        snapshots.pull(store, ref, tmp_path / "pulled")
    for path in ("../a", "/etc/a", "a/../../b", "a//b", "a\0b"):
        with pytest.raises(ValueError, match="path"):
            FileRecord(path=path, size=0, sha256="0" * 64)
    manifest = json.loads(store.read_bytes(manifest_key(ref)) or b"")
    record = manifest["files"][0]
    store.write_json(manifest_key(ref), {**manifest, "files": [{**record, "path": "a"}, {**record, "path": "a/b"}]})
    with pytest.raises(DamagedObjectError):
        snapshots.pull(store, ref, tmp_path / "pulled")
