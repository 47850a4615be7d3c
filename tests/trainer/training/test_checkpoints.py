"""What a training leaves on the disk, and that it is whole whatever happens while it is written."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.training import Training, assert_same, interrupted
from tests.support.waiting import until
from trainer.data.metadata import read_metadata
from trainer.errors import DiskFullError
from trainer.events import ProgressEvent, SavedEvent
from trainer.gr00t.n15.model import GR00TN15
from trainer.runner import checkpoint_folder

MakeTraining = Callable[..., Training]

MODEL = {
    "config.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    # Upstream has these two in its package; here they make each checkpoint a model by itself.
    "tokenizer.json",
    "tokenizer_config.json",
}
EXPERIMENT = {"experiment_cfg/metadata.json", "experiment_cfg/policy.json"}


def files(folder: Path) -> set[str]:
    """The files under ``folder``, without TensorBoard's."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {name for name in found if not name.startswith(("runs/", "checkpoint-"))}


def test_the_output_folder_is_upstreams(training: MakeTraining) -> None:
    """The layout of reference §9, but for ``training_args.bin``: a pickle of transformers' class, which only the very
    version that wrote it can read, and nothing does. The arguments are in the run's spec. And there is one more:
    ``policy.json``, by which a checkpoint knows itself.
    """
    seven = training("seven", max_steps=7, save_steps=1)
    assert seven.run() == 0
    assert files(seven.output_dir) == {*MODEL, *EXPERIMENT, "trainer_state.json"}
    resumable = {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", *EXPERIMENT}
    for step in seven.steps:
        assert files(seven.checkpoint(step)) == MODEL | resumable
        assert checkpoint_folder.problem(seven.checkpoint(step), step) is None
    # Upstream keeps five as well.
    assert seven.steps == [3, 4, 5, 6, 7]
    assert [event.step for event in seven.events if isinstance(event, SavedEvent)] == [1, 2, 3, 4, 5, 6, 7]
    assert {path.name for path in seven.output_dir.iterdir() if path.name.startswith(".")} == set()
    assert read_metadata(seven.output_dir / "experiment_cfg", "new_embodiment").embodiment_tag == "new_embodiment"
    state = json.loads((seven.output_dir / "trainer_state.json").read_text())
    assert state["global_step"] == 7
    assert GR00TN15.from_pretrained(seven.output_dir).config.architectures == ["GR00T_N1_5"]

    frozen, trained = sorted(name for name in MODEL if name.endswith(".safetensors"))
    contents = [(seven.checkpoint(step) / frozen).read_bytes() for step in seven.steps]
    assert contents == contents[:1] * 5
    contents = [(seven.checkpoint(step) / trained).read_bytes() for step in seven.steps]
    assert len(set(contents)) == 5
    assert (seven.output_dir / trained).read_bytes() == contents[-1]


def test_old_checkpoints_go_after_the_new_one_is_whole(training: MakeTraining, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.training import checkpoints

    seen: list[list[int]] = []
    seven = training("seven", max_steps=7, save_steps=1)
    sync = checkpoints._sync_folder

    def watch(folder: Path) -> None:
        sync(folder)
        if folder == seven.output_dir:
            seen.append(seven.steps)

    monkeypatch.setattr(checkpoints, "_sync_folder", watch)
    assert seven.run() == 0
    assert seen[4:] == [[1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6], [2, 3, 4, 5, 6, 7]]


def test_a_checkpoint_is_written_while_the_training_goes_on(
    training: MakeTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.training import finetune_trainer

    flags = {"max_steps": 8, "save_steps": 3}
    reference = training("reference", **flags)
    assert reference.run() == 0
    losses: list[None] = []
    under_way, most = [], []
    loss, write = finetune_trainer.FinetuneTrainer.compute_loss, finetune_trainer.save_checkpoint

    def count(self: finetune_trainer.FinetuneTrainer, *args: Any, **kwargs: Any) -> Any:
        losses.append(None)
        return loss(self, *args, **kwargs)

    def hold(model: GR00TN15, folder: Path, **kwargs: Any) -> None:
        under_way.append(folder.name)
        # Two more steps begin before anything is written, as far as there are more: the training is ahead already.
        enough = min(len(losses) + 2, 8)
        until(lambda: len(losses) >= enough)
        write(model, folder, **kwargs)
        most.append(list(under_way))
        under_way.remove(folder.name)

    monkeypatch.setattr(finetune_trainer.FinetuneTrainer, "compute_loss", count)
    monkeypatch.setattr(finetune_trainer, "save_checkpoint", hold)
    held = training("held", **flags)
    assert held.run() == 0
    assert most == [["checkpoint-3"], ["checkpoint-6"], ["checkpoint-8"]]
    for step in (3, 6, 8):
        assert_same(held.weights(step), reference.weights(step))
        assert_same(held.state(step)["optimizer.pt"], reference.state(step)["optimizer.pt"])
    frozen = [held.checkpoint(step) / "model-00001-of-00002.safetensors" for step in (3, 6, 8)]
    assert len({file.stat().st_ino for file in frozen}) == 1
    assert frozen[0].read_bytes() == (reference.checkpoint(8) / frozen[0].name).read_bytes()


def test_a_failed_write_ends_the_training_at_the_next_step(
    training: MakeTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.training import finetune_trainer

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, "the disk is gone")

    monkeypatch.setattr(finetune_trainer, "save_checkpoint", fail)
    failed = training("failed", max_steps=500, save_steps=2)
    with pytest.raises(OSError, match="the disk is gone"):
        failed.run()
    progress = [event.step for event in failed.events if isinstance(event, ProgressEvent)]
    assert failed.steps == []
    assert max(progress, default=0) < 100
    assert not (failed.output_dir / ".saving").exists()


def test_a_run_resumed_at_its_end_only_finishes(training: MakeTraining) -> None:
    four = training("four")
    assert four.run() == 0
    before = (four.checkpoint(4) / "optimizer.pt").stat()
    (four.output_dir / "config.json").unlink()
    assert four.run(resume=True) == 0
    assert (four.checkpoint(4) / "optimizer.pt").stat().st_mtime_ns == before.st_mtime_ns
    assert (four.output_dir / "config.json").is_file()


@pytest.mark.slow
def test_killed_at_any_moment_of_a_save_it_resumes(training: MakeTraining) -> None:
    rounds = 12
    steps = 10_000  # it is never at its end
    killed = training("killed", max_steps=steps, save_steps=1)
    dice, before = random.Random(rounds), 0
    for _ in range(rounds):
        process = killed.start(resume=bool(killed.steps))
        staging = killed.output_dir / ".saving"
        killed.wait_for(lambda before=before: max(killed.steps, default=0) > before, process)
        killed.wait_for(staging.exists, process)
        # A save takes some 50 ms here, of which a step is as long again.
        time.sleep(dice.uniform(0, 0.1))
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert killed.steps, killed.log.read_text()
        for step in killed.steps:
            if step > before:
                require_whole(killed, step)
        before = killed.steps[-1]
    for step in killed.steps:  # what was whole still is, whatever a later save shares with it
        require_whole(killed, step)
    end = killed.steps[-1] + 6
    interrupted(killed, end, resume=True, save_steps=end)
    assert not (killed.output_dir / ".saving").exists()
    reference = training("reference", max_steps=steps, save_steps=end)
    interrupted(reference, end)
    assert_same(killed.weights(end), reference.weights(end))


def require_whole(training: Training, step: int) -> None:
    assert checkpoint_folder.problem(training.checkpoint(step), step) is None
    training.state(step)
    training.weights(step)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", folder], capture_output=True)
    if mount.returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("full_at", ["model", "optimizer"])
def test_a_full_disk_costs_only_the_save_it_stops(training: MakeTraining, small_disk: Path, full_at: str) -> None:
    full = training("full", output_dir=small_disk / "out", max_steps=2, save_steps=2)
    assert full.run() == 0
    saved = {file.name: file.read_bytes() for file in full.checkpoint(2).iterdir() if file.is_file()}
    weights = sum(len(content) for name, content in saved.items() if name.endswith((".safetensors", ".json")))
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    room = weights // 2 if full_at == "model" else weights + len(saved["optimizer.pt"]) // 2
    (small_disk / "filler").write_bytes(bytes(free - room))
    with pytest.raises(DiskFullError, match="No space left on the disk"):
        full.run(resume=True, max_steps=4)
    assert full.steps == [2]
    assert {file.name: file.read_bytes() for file in full.checkpoint(2).iterdir() if file.is_file()} == saved
    assert not (full.output_dir / ".saving").exists()
    (small_disk / "filler").unlink()
    assert full.run(resume=True, max_steps=4) == 0
    assert full.steps == [2, 4]
