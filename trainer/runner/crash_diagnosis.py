"""Why an engine ended: from its exit status and its last lines to an error that says what to lower or free."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from pathlib import Path

from trainer.errors import DiskFullError, EngineError, OutOfMemoryError, PippaError, from_exit_code
from trainer.events import ErrorEvent
from trainer.forecast import GENERAL_ADVICE

_SHM = re.compile(
    r"bus error|insufficient shared memory|unable to (open|allocate) shared memory"
    r"|No space left on device.*(/dev/shm|/torch_)|unable to (resize|mmap).*(/torch_|shm)",
    re.IGNORECASE,
)
_CUDA = re.compile(
    r"CUDA out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED"
    r"|cudaErrorMemoryAllocation|cuda runtime error \(2\)"
    # cuBLAS finds no room for its handle; NCCL, in its own words.
    r"|CUBLAS_STATUS_NOT_INITIALIZED|Cuda failure 2\b|Cuda failure 'out of memory'",
    re.IGNORECASE,
)
_HOST = re.compile(
    r"killed by signal: (Killed|9)|can't allocate memory|Cannot allocate memory|^MemoryError\b|not enough memory"
    r"|signal 9 \(SIGKILL\)|Signal SIGKILL",
    re.IGNORECASE | re.MULTILINE,
)
_DISK = re.compile(r"No space left on device|Errno 28|Disk quota exceeded|ENOSPC", re.IGNORECASE)

_HOST_HINT = (
    "Lower --dataloader-num-workers and --dataloader-prefetch-factor, or give the machine or container more memory: "
    "`pippa train … --dry-run` says how much a training needs."
)
_SHM_HINT = (
    "Give the container more shared memory (--shm-size 8g or --ipc=host), or lower --dataloader-num-workers "
    "and --batch-size."
)


def disk_full(where: Path | str) -> DiskFullError:
    """No space left at ``where``, and what may be freed."""
    return DiskFullError(
        f"No space left on the disk of {where}.",
        "Free some: `cache/` and finished runs under PIPPA_HOME can go (what the store has is pulled again when "
        "needed), or set PIPPA_HOME to a larger disk, or save less often (--save-steps).",
    )


def explain(
    returncode: int,
    tail: Sequence[str],
    reported: ErrorEvent | None = None,
    *,
    oom_killed: bool = False,
    advice: str = GENERAL_ADVICE,
) -> PippaError:
    """The error for an engine that ended with ``returncode`` (negative: a signal) after the lines of ``tail``.

    ``reported`` is the error event the native engine printed itself; it knows best. ``oom_killed`` says that the
    kernel counted an out-of-memory kill in this container while the engine ran. ``advice`` is what a training needs
    less GPU memory with.
    """
    if reported is not None:
        return from_exit_code(reported.code, reported.message, reported.hint, otherwise=EngineError)
    text = "\n".join(tail)
    killed = returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
    # Order matters: a full /dev/shm also says "No space left", and a CUDA error often ends in a plain exit code 1.
    if returncode in (-signal.SIGBUS, 128 + signal.SIGBUS) or _SHM.search(text):
        return OutOfMemoryError("The data loading ran out of shared memory (/dev/shm).", _SHM_HINT)
    if _CUDA.search(text):
        return OutOfMemoryError("The GPU ran out of memory (CUDA out of memory).", advice)
    if _DISK.search(text):
        return disk_full("the run's output folder")
    if oom_killed or _HOST.search(text):
        return OutOfMemoryError("The machine ran out of memory (host RAM) and the engine was killed.", _HOST_HINT)
    if killed:
        return OutOfMemoryError(
            "The engine was killed (SIGKILL), which is nearly always the kernel's answer to host RAM running out.",
            _HOST_HINT,
        )
    if returncode < 0:
        ended = f"was ended by {signal.Signals(-returncode).name}"
    else:
        ended = f"ended with exit code {returncode}"
    last = "\n".join(f"  {line}" for line in list(tail)[-15:])
    return EngineError(f"The engine {ended}. Its last lines:\n{last}", "The whole output is in the run's log.txt.")


def oom_kills() -> int:
    """Out-of-memory kills counted in this container's control group so far; 0 where there is no such count."""
    for file, key in (
        ("/sys/fs/cgroup/memory.events", "oom_kill"),
        ("/sys/fs/cgroup/memory/memory.oom_control", "oom_kill"),
    ):
        try:
            for line in Path(file).read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == key:
                    return int(count)
        except (OSError, ValueError):
            continue
    return 0
