from __future__ import annotations

import signal

import pytest

from trainer.errors import ExitCode
from trainer.events import ErrorEvent
from trainer.runner.crash_diagnosis import explain


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
        (1, "DataLoader worker (pid(s) 7) is killed by signal: Killed.", 5, "host RAM"),
        (1, "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes", 5, "host RAM"),
        (-signal.SIGKILL, "", 5, "SIGKILL"),
        (137, "", 5, "SIGKILL"),
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
    assert explain(1, ["ChildFailedError"], oom_killed=True).exit_code == ExitCode.OUT_OF_MEMORY


def test_what_the_engine_reported_itself_is_believed():
    error = explain(3, ["CUDA out of memory"], ErrorEvent(code=3, message="bad frame", hint="record again"))
    assert (error.exit_code, error.message, error.hint) == (ExitCode.DATASET, "bad frame", "record again")
