from __future__ import annotations

import signal

import pytest

from trainer.errors import ExitCode
from trainer.events import ErrorEvent
from trainer.runner.crash_diagnosis import OomKills, explain


@pytest.mark.parametrize(
    ("returncode", "tail", "code", "says"),
    [
        (1, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", 5, "Lower --batch-size"),
        (1, "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling", 5, "GPU"),
        (1, "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`", 5, "GPU"),
        (1, "ncclUnhandledCudaError: Call to CUDA function failed.\nCuda failure 2 'out of memory'", 5, "GPU"),
        (1, "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that", 5, "--shm-size"),
        (-signal.SIGBUS, "", 5, "--shm-size"),
        (1, "OSError: [Errno 28] No space left on device: '/dev/shm/torch_1'", 5, "--shm-size"),
        (1, "RuntimeError: unable to allocate shared memory(shm) for file </torch_7>", 5, "--shm-size"),
        (1, "DataLoader worker (pid(s) 7) is killed by signal: Killed.", 7, "SIGKILL"),
        (1, "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes", 5, "host RAM"),
        (-signal.SIGKILL, "", 7, "journalctl"),
        (137, "", 7, "SIGKILL"),
        (1, "safetensors_rust.SafetensorError: I/O error: No space left on device (os error 28)", 6, "PIPPA_HOME"),
        (1, "ValueError: something else", 7, "something else"),
        (-signal.SIGSEGV, "", 7, "SIGSEGV"),
    ],
)
def test_the_end_of_an_engine_is_explained(returncode, tail, code, says):
    error = explain(returncode, ["before", tail])
    assert error.exit_code == code
    assert says in str(error)


def test_the_kernels_own_count_beats_a_plain_exit_code():
    assert explain(1, ["ChildFailedError"], oom_kills=OomKills(here=1)).exit_code == ExitCode.OUT_OF_MEMORY


@pytest.mark.parametrize("tail", ["", "DataLoader worker (pid(s) 7) is killed by signal: Killed."])
def test_a_kill_is_for_want_of_memory_only_where_the_kernel_counted_one(tail):
    returncode = 1 if tail else -signal.SIGKILL
    assert explain(returncode, [tail]).exit_code == ExitCode.ENGINE
    assert explain(returncode, [tail], oom_kills=OomKills(anywhere=1)).exit_code == ExitCode.OUT_OF_MEMORY
    # Another program's end explains no error of the engine's own.
    assert explain(1, ["ValueError"], oom_kills=OomKills(anywhere=1)).exit_code == ExitCode.ENGINE


def test_the_kernel_counts_a_kill_for_want_of_memory():
    before = OomKills.now()
    assert before.since(before) == OomKills(0, 0) and before.anywhere >= 0


def test_what_the_engine_reported_itself_is_believed():
    error = explain(3, ["CUDA out of memory"], ErrorEvent(code=3, message="bad frame", hint="record again"))
    assert (error.exit_code, error.message, error.hint) == (ExitCode.DATASET, "bad frame", "record again")
