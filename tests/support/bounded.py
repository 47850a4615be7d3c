"""Runs a function in a child process that may take little memory and time only, however much its input wants."""

from __future__ import annotations

import multiprocessing
import resource
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from trainer.errors import PippaError

CPU_SECONDS = 20
"""Of processor time, however busy the machine is."""
MAX_BYTES = 1 << 30
_ROOM = 3 << 30
"""What a child that takes more is stopped at, for the machine's sake."""
_HANGS_SECONDS = 300

_CHILDREN = multiprocessing.get_context("forkserver")
# What the calls import: a child that is forked with it starts in a quarter of the time.
_CHILDREN.set_forkserver_preload(
    [
        "trainer.importers.normalize_dataset",
        "trainer.data.checks",
        "trainer.data.frames",
        "hypothesis",
        "tests.fuzz.hostile",
    ]
)


class Refused(NamedTuple):
    """How an input was refused."""

    exit_code: int
    message: str
    hint: str


class Outcome(NamedTuple):
    """What became of a call."""

    value: Any
    """What it returned; of an error with a cure, ``Refused``."""
    defect: str
    """Another error, or the signal the child died of; empty when there was none."""
    peak: int
    """Bytes of memory at its peak."""


def bounded(call: Callable[..., Any], *arguments: Any) -> Outcome:
    """Call ``call`` (of a module, as it is sent to the child) within the bounds."""
    ours, theirs = _CHILDREN.Pipe(duplex=False)
    child = _CHILDREN.Process(target=_run, args=(theirs, call, arguments), daemon=True)
    child.start()
    theirs.close()
    try:
        if not ours.poll(_HANGS_SECONDS):
            return Outcome(None, "hangs", 0)
        return Outcome(*ours.recv())
    except EOFError:
        child.join()
        code = child.exitcode or 0
        return Outcome(None, f"died: {signal.Signals(-code).name if code < 0 else code}", 0)
    finally:
        child.kill()
        child.join()


def refuses(call: Callable[..., Any], *arguments: Any) -> Refused:
    """The refusal that ``call`` ends in, within the bounds."""
    outcome = bounded(call, *arguments)
    assert not outcome.defect, outcome.defect
    assert outcome.peak <= MAX_BYTES, f"{outcome.peak / 1e6:.0f} MB"
    if not isinstance(outcome.value, Refused):
        pytest.fail(f"accepted: {outcome.value}")
    return outcome.value


def _run(answer: Connection, call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    resource.setrlimit(resource.RLIMIT_CPU, (int(used) + CPU_SECONDS, int(used) + CPU_SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_DATA, (_ROOM, _ROOM))
    value, defect = None, ""
    try:
        value = call(*arguments)
    except PippaError as error:
        value = Refused(int(error.exit_code), error.message, error.hint)
    except BaseException as error:
        defect = f"{type(error).__name__}: {error}"[:500]
    answer.send((value, defect, _peak()))


def _peak() -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024
