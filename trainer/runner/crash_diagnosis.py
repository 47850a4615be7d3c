"""Why an engine ended: from its exit status and its last lines to an error that says what to lower or free."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from trainer.disk import disk_full, says_full
from trainer.errors import EngineError, OutOfMemoryError, PippaError, from_exit_code
from trainer.events import ErrorEvent
from trainer.memory_advice import GENERAL_ADVICE

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
    r"can't allocate memory|Cannot allocate memory|^MemoryError\b|not enough memory",
    re.IGNORECASE | re.MULTILINE,
)
# A data loading process, or torchrun's rank.
_KILLED = re.compile(r"killed by signal: (Killed|9)|signal 9 \(SIGKILL\)|Signal SIGKILL", re.IGNORECASE)

_HOST_HINT = (
    "Lower --dataloader-num-workers and --dataloader-prefetch-factor, or give the machine or container more memory: "
    "`pippa train … --dry-run` says how much a training needs."
)
_KILLED_HINT = (
    "`journalctl -k`, the scheduler's log and systemd-oomd's or earlyoom's tell who did it. `pippa runs resume` "
    "continues the run from its last checkpoint; `--dry-run` says how much memory a training needs."
)
_SHM_HINT = (
    "Give the container more shared memory (--shm-size 8g or --ipc=host), or lower --dataloader-num-workers "
    "and --batch-size (of N1.7 --global-batch-size)."
)


class OomKills(NamedTuple):
    """How many processes the kernel has killed for want of memory."""

    here: int = 0
    """In the control group of this process: its container, its systemd unit, its job."""
    anywhere: int = 0
    """On the whole machine, where the group has no count; else 0, as other groups' kills say nothing about this one."""

    @classmethod
    def now(cls) -> OomKills:
        """As the kernel counts them; 0 where it does not."""
        groups = Path("/sys/fs/cgroup")
        own = {
            group: path.strip("/")
            for _, group, path in (line.split(":", 2) for line in _lines(Path("/proc/self/cgroup")))
        }
        # The second of each is what a container sees of itself; the first pair is version 2, the other version 1.
        files = [
            *(groups / path / "memory.events" for path in (own.get("", ""), "")),
            *(groups / "memory" / path / "memory.oom_control" for path in (own.get("memory", ""), "")),
        ]
        here = next((count for file in files if (count := _counted(file)) is not None), None)
        return cls(0, _counted(Path("/proc/vmstat")) or 0) if here is None else cls(here)

    def since(self, before: OomKills) -> OomKills:
        """Those that were added to ``before``."""
        return OomKills(self.here - before.here, self.anywhere - before.anywhere)


NO_KILLS = OomKills()


def explain(
    returncode: int,
    tail: Sequence[str],
    reported: ErrorEvent | None = None,
    *,
    oom_kills: OomKills = NO_KILLS,
    advice: str = GENERAL_ADVICE,
) -> PippaError:
    """The error for an engine that ended with ``returncode`` (negative: a signal) after the lines of ``tail``.

    ``reported`` is the error event the native engine printed itself; it knows best. ``oom_kills`` are those of the
    kernel while the engine ran: without one, a SIGKILL can't be attributed to memory. ``advice`` is what a
    training needs less GPU memory with.
    """
    if reported is not None:
        return from_exit_code(reported.code, reported.message, reported.hint, otherwise=EngineError)
    text = "\n".join(tail)
    killed = returncode in (-signal.SIGKILL, 128 + signal.SIGKILL) or _KILLED.search(text) is not None
    # Order matters: a full /dev/shm also says "No space left", and a CUDA error often ends in a plain exit code 1.
    if returncode in (-signal.SIGBUS, 128 + signal.SIGBUS) or _SHM.search(text):
        return OutOfMemoryError("The data loading ran out of shared memory (/dev/shm).", _SHM_HINT)
    if _CUDA.search(text):
        return OutOfMemoryError("The GPU ran out of memory (CUDA out of memory).", advice)
    if says_full(text):
        return disk_full("the run's output folder")
    if oom_kills.here or (oom_kills.anywhere and killed):
        return OutOfMemoryError(
            "The machine ran out of memory (host RAM) and the kernel killed the engine.", _HOST_HINT
        )
    if _HOST.search(text):
        return OutOfMemoryError("The machine ran out of memory (host RAM).", _HOST_HINT)
    if killed:
        return EngineError(
            "The engine was killed (SIGKILL), and not by the kernel for want of memory: it counted no such kill "
            "meanwhile. A person, a scheduler or a memory watcher did it.",
            _KILLED_HINT,
        )
    if returncode < 0:
        ended = f"was ended by {signal.Signals(-returncode).name}"
    else:
        ended = f"ended with exit code {returncode}"
    last = "\n".join(f"  {line}" for line in list(tail)[-15:])
    return EngineError(f"The engine {ended}. Its last lines:\n{last}", "The whole output is in the run's log.txt.")


def _counted(file: Path) -> int | None:
    """The number behind ``oom_kill`` in a file of the kernel's; None where there is none."""
    for line in _lines(file):
        name, _, count = line.partition(" ")
        if name == "oom_kill" and count.isdecimal():
            return int(count)
    return None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
