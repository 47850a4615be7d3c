"""Several processes, and several micro-batches, train as one process with one batch."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from tests.support.ports import free_port
from tests.support.ranks import Part, train_together
from tests.support.training import Training, assert_same
from tests.support.waiting import PATIENCE
from trainer.errors import UsageError
from trainer.gr00t.n15.tiny import make_tiny_base_model
from trainer.runner import checkpoint_folder
from trainer.training import devices
from trainer.training.devices import (
    CPU_PROCESSES,
    cause,
    check_device_count,
    check_gpu_usable,
    choose_devices,
    needs_torchrun,
)

MakeTraining = Callable[..., Training]
TWO = {CPU_PROCESSES: "1"}


@pytest.fixture(scope="module")
def no_dropout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as it is: what each rank drops out is its own."""
    return make_tiny_base_model(tmp_path_factory.mktemp("models") / "tiny")


def assert_close(ours: Training, theirs: Training, step: int) -> None:
    """Equal but for the order of sums."""
    weights, want = ours.weights(step), theirs.weights(step)
    assert weights.keys() == want.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(
            tensor, want[name], atol=2e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_micro_batches_make_the_batch(training: MakeTraining, no_dropout: Path) -> None:
    whole = training("whole", base_model_path=no_dropout, batch_size=4, max_steps=2)
    micro = training("micro", base_model_path=no_dropout, batch_size=2, gradient_accumulation_steps=2, max_steps=2)
    assert whole.run() == 0
    assert micro.run() == 0
    assert_close(micro, whole, 2)


@pytest.mark.slow
def test_two_processes_make_one(training: MakeTraining, no_dropout: Path, even_dataset: Path) -> None:
    # Two steps make an epoch, so that the second half of the training is in another order than the first.
    flags = {"dataset_path": [even_dataset], "base_model_path": no_dropout, "max_steps": 4, "save_steps": 4}
    one = training("one", batch_size=4, **flags)
    assert one.run() == 0
    two = training("two", batch_size=2, num_gpus=2, **flags)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    ranks = [two.start({**address, "RANK": rank, "LOCAL_RANK": rank}) for rank in ("0", "1")]
    for rank in ranks:
        rank.join(PATIENCE)
        assert rank.exitcode == 0, two.log.read_text()
    assert_close(two, one, 4)
    states = {path.name for path in two.checkpoint(4).glob("rng_state*")}
    assert states == {"rng_state_0.pth", "rng_state_1.pth"}


@pytest.mark.slow
def test_two_processes_stop_once_and_resume(training: MakeTraining, tmp_path: Path) -> None:
    # Many, so that it still trains when the signal comes.
    stopped = training("stopped", num_gpus=2, max_steps=1000, save_steps=1000, dataloader_num_workers=1)
    process = stopped.start(TWO)
    stopped.wait_for_event("progress", process)
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid or 0, signal.SIGTERM)
    process.join(PATIENCE)
    assert process.exitcode == 143, stopped.log.read_text()
    (step,) = stopped.steps
    assert 0 < step < 1000
    assert checkpoint_folder.problem(stopped.checkpoint(step), step) is None
    gone, alive = psutil.wait_procs(children, timeout=PATIENCE)
    assert len(gone) >= 4
    assert alive == []

    whole, resumed = stopped.in_folder("whole"), stopped.in_folder("resumed")
    end = step + 9
    train_together([Part(whole, ends=end), Part(resumed, stopped.checkpoint(step), end)], tmp_path / "log")
    # Three epochs, each in another order, with dropout: the same as without the stop, to the last bit.
    assert_same(resumed.weights(end), whole.weights(end))


@pytest.mark.slow
def test_one_rank_that_fails_ends_all_with_its_exit_code(training: MakeTraining, tmp_path: Path) -> None:
    lost = training("lost", num_gpus=2, base_model_path=tmp_path / "absent")
    process = lost.start(TWO)
    process.join(PATIENCE)
    assert process.exitcode == 2, lost.log.read_text()


@pytest.mark.parametrize(
    ("codes", "why"),
    [
        ([143, 2], 2),  # rank 0 was ended because rank 1 failed, and answered it
        ([-15, 1], 1),
        ([1, 5], 5),
        ([1, -9], -9),
        ([-15, -9, 143], -9),
        ([143, 143], 143),
        ([-15], -15),
    ],
)
def test_the_rank_that_failed_says_why_and_not_those_that_were_ended_for_it(codes: list[int], why: int) -> None:
    assert cause(codes) == why


def test_as_many_gpus_as_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, asked in ((0, 2), (1, 2), (4, 8)):
        with pytest.raises(UsageError, match=f"--num-gpus {asked}"):
            check_device_count(asked, available, {})
    check_device_count(2, 0, TWO)
    check_device_count(2, 0, {"LOCAL_RANK": "0"})
    with pytest.raises(UsageError):
        check_device_count(2, 1, TWO)
    assert needs_torchrun(2, {})
    assert not needs_torchrun(2, {"LOCAL_RANK": "1"})
    assert not needs_torchrun(1, {})


def test_a_gpu_that_torch_can_not_use_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_DRIVER", tmp_path)
    check_gpu_usable(False, "13.2", {})  # no GPU
    (tmp_path / "gpus").mkdir()
    with pytest.raises(UsageError, match=r"does not run CUDA 13\.2") as refused:
        check_gpu_usable(False, "13.2", {"CUDA_VISIBLE_DEVICES": "0"})
    assert "580" in refused.value.hint and "CUDA_VISIBLE_DEVICES= " in refused.value.hint
    with pytest.raises(UsageError, match="built without CUDA"):
        check_gpu_usable(False, None, {})
    check_gpu_usable(True, "13.2", {})
    for hidden in ("", "-1"):
        check_gpu_usable(False, "13.2", {"CUDA_VISIBLE_DEVICES": hidden})


@pytest.mark.parametrize(
    ("allowed", "num_gpus", "visible"),
    [(None, 1, "0"), (None, 2, "0,1"), ("3,5,7", 2, "3,5"), ("3", 2, "3"), ("", 1, ""), ("GPU-ab,GPU-cd", 1, "GPU-ab")],
)
def test_the_users_choice_of_gpus_counts(allowed: str | None, num_gpus: int, visible: str) -> None:
    environ = {} if allowed is None else {"CUDA_VISIBLE_DEVICES": allowed}
    choose_devices(num_gpus, environ)
    assert environ["CUDA_VISIBLE_DEVICES"] == visible
    under = {"LOCAL_RANK": "0", "CUDA_VISIBLE_DEVICES": "3,5"}
    choose_devices(2, under)
    assert under["CUDA_VISIBLE_DEVICES"] == "3,5"
