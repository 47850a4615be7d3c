from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flows.launch import gpu_locks
from flows.launch.machine import machine_name
from tests.support.waiting import until
from trainer.errors import UsageError

HOLDER = """
import sys, time
from pathlib import Path
from flows.launch.gpu_locks import held
with held(Path(sys.argv[1]), "killed", ["0"], 1, 1, print):
    print("holds", flush=True)
    time.sleep(600)
"""


def test_what_one_holds_another_does_not_get(tmp_path):
    with gpu_locks.held(tmp_path, "a", ["0", "1", "2"], 2, 1, pytest.fail) as gpus:
        assert gpus == ["0", "1"]
        with gpu_locks.held(tmp_path, "b", ["0", "1", "2"], 1, 1, pytest.fail) as others:
            assert others == ["2"]


def test_a_node_of_a_training_on_several_machines_holds_its_gpus(tmp_path):
    environ = {"CUDA_VISIBLE_DEVICES": "0,1,2"}
    with gpu_locks.held(tmp_path, "other", ["0", "1", "2"], 1, 1, pytest.fail) as before:
        assert before == ["0"]
        with gpu_locks.held_on_node(tmp_path, "job", 2, pytest.fail, environ) as found:
            assert found["CUDA_VISIBLE_DEVICES"] == "1,2"
    with gpu_locks.held_on_node(tmp_path, "job", 3, pytest.fail, environ):
        said: list[str] = []

        class GivenUpError(Exception):
            pass

        def give_up(line: str) -> None:
            said.append(line)
            raise GivenUpError

        with pytest.raises(GivenUpError), gpu_locks.held(tmp_path, "second", ["0", "1", "2"], 1, 1, give_up):
            pass
        assert said == [f"Waiting for a GPU. Training on {machine_name()}: job."]
    # Two nodes on one processor would wait for each other.
    without = {"CUDA_VISIBLE_DEVICES": ""}
    with (
        gpu_locks.held_on_node(tmp_path, "job", 2, pytest.fail, without),
        gpu_locks.held_on_node(tmp_path, "job", 2, pytest.fail, without) as found,
    ):
        assert found == without


def test_more_than_there_are_is_refused(tmp_path):
    with pytest.raises(UsageError, match="--num-gpus 4"), gpu_locks.held(tmp_path, "a", ["0", "1"], 4, 1, print):
        pass


def test_without_a_gpu_the_processor_is_held_and_may_be_shared(tmp_path):
    with (
        gpu_locks.held(tmp_path, "a", [], 4, 2, pytest.fail) as one,
        gpu_locks.held(tmp_path, "b", [], 1, 2, pytest.fail) as other,
    ):
        assert one == other == []


def test_a_run_started_again_gets_the_gpus_it_had(tmp_path):
    with (
        gpu_locks.held(tmp_path, "a", ["0", "1"], 1, 1, pytest.fail),
        gpu_locks.held(tmp_path, "b", ["0", "1"], 1, 1, pytest.fail) as gpus,
    ):
        assert gpus == ["1"]
    with gpu_locks.held(tmp_path, "b", ["0", "1"], 1, 1, pytest.fail) as gpus:
        assert gpus == ["1"]


def test_who_waits_says_for_whom_and_gets_the_gpu_of_one_that_was_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_locks, "ASK_SECONDS", 0.05)
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    root = Path(__file__).resolve().parents[3]
    said: list[str] = []
    got = threading.Event()

    def wait() -> None:
        with gpu_locks.held(tmp_path, "next", ["0"], 1, 1, said.append):
            got.set()

    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout and holder.stdout.readline() == "holds\n"
        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        until(lambda: said)
        assert said == [f"Waiting for a GPU. Training on {machine_name()}: killed."]
        holder.kill()
        until(got.is_set)
        thread.join()
