"""One training per GPU of a bare machine: locks on files, which the kernel releases whatever ends a process.

With the Prefect server of a team they are its concurrency limits instead (``flows.orchestration.gpu_leases``).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from flows.launch import GPU_VARIABLE, machine

ASK_SECONDS = 1.0


@contextlib.contextmanager
def held(
    home: Path, run_id: str, gpus: Sequence[str], wanted: int, share: int, say: Callable[[str], None]
) -> Generator[list[str]]:
    """Hold ``wanted`` of ``gpus`` for ``run_id``, after waiting for them if need be; yields their ids.

    ``share`` trainings may hold the same one, and a container that computes on it counts. While it waits, ``say`` is
    told for whom. Without ``gpus`` the machine's
    processor is held, and nothing yielded. Raises ``UsageError`` for more GPUs than there are.
    """
    machine.require_gpus(machine.machine_name(), gpus, wanted)
    folder = home / "gpus"
    folder.mkdir(parents=True, exist_ok=True)
    reported = ""
    while True:
        with ExitStack() as locks:
            taken, holders = _take(folder, run_id, gpus or [""], wanted if gpus else 1, share, locks)
            if taken is not None:
                yield [gpu for gpu in taken if gpu]
                return
        message = f"Waiting for a GPU. Training on {machine.machine_name()}: {', '.join(holders)}."
        if message != reported:
            say(message)
            reported = message
        time.sleep(ASK_SECONDS)


@contextlib.contextmanager
def held_on_node(
    home: Path, name: str, wanted: int, say: Callable[[str], None], environ: Mapping[str, str] = os.environ
) -> Generator[dict[str, str]]:
    """Hold GPUs of a machine that trains along in the run or job ``name``; yields the environment to train in.

    Node 0's are held by the flow of the run. A machine without a GPU holds nothing: nodes on one processor are there to
    try things out, and would wait for each other. Raises as ``held``.
    """
    gpus = machine.gpus("process", environ)
    if not gpus:
        yield dict(environ)
        return
    with held(home, name, gpus, wanted, machine.trainings_per_gpu(environ), say) as taken:
        yield {**environ, GPU_VARIABLE["process"]: ",".join(taken)}


def _take(
    folder: Path, run_id: str, gpus: Sequence[str], wanted: int, share: int, locks: ExitStack
) -> tuple[list[str] | None, list[str]]:
    """The GPUs whose locks now are in ``locks``, None where too few are free; and who holds the others."""
    files = {gpu: [folder / f"{_name(gpu)}.{place}.lock" for place in range(share)] for gpu in gpus}
    # A run that is started again may find its container still training on those it had.
    order = sorted(gpus, key=lambda gpu: run_id not in [_holder(file) for file in files[gpu]])
    # The container of a killed process computes on, and holds no lock.
    occupants = machine.occupants([gpu for gpu in gpus if gpu], [run_id])
    taken: list[str] = []
    holders: list[str] = []
    for gpu in order:
        if len(inside := occupants.get(gpu, [])) >= share:
            holders += [machine.in_container(run) for run in inside]
        elif len(taken) < wanted and any(_locked(file, run_id, locks) for file in files[gpu]):
            taken.append(gpu)
        else:
            holders += [holder for file in files[gpu] if (holder := _holder(file))]
    return (taken if len(taken) == wanted else None), list(dict.fromkeys(holders))


def _locked(file: Path, run_id: str, locks: ExitStack) -> bool:
    """Lock ``file`` until ``locks`` is closed, and write into it for whom; whether it was free."""
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(file.open("a+"))
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        opened.truncate(0)
        opened.write(run_id)
        opened.flush()
        locks.push(stack.pop_all())
    return True


def _holder(file: Path) -> str:
    """The run that holds ``file``, or held it last; empty for none yet."""
    try:
        return file.read_text()
    except OSError:
        return ""


def _name(gpu: str) -> str:
    return "gpu-" + re.sub(r"[^A-Za-z0-9-]", "-", gpu) if gpu else "cpu"
