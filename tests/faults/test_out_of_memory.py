"""A kill by the kernel for want of memory, in a control group with a limit, is told apart from one by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer.errors import ExitCode

LIMIT = 400 << 20
CHILD = """
import os, sys
from trainer.runner.child_process import Signals, run_child
open(sys.argv[1], "w").write(str(os.getpid()))
with Signals() as signals:
    outcome = run_child([sys.executable, "-c", sys.argv[2]], os.environ, signals, emit=print, log=print)
problem = outcome.problem()
print(int(problem.exit_code), problem.message)
"""


@pytest.fixture
def groups() -> Iterator[list[Path]]:
    """Who is in two control groups with little memory: a process's id is written there."""
    root = Path("/sys/fs/cgroup")
    v1 = (root / "memory").is_dir()
    folders = [(root / "memory" if v1 else root) / f"pippa-test-{os.getpid()}-{number}" for number in range(2)]
    try:
        for folder in folders:
            folder.mkdir()
            (folder / ("memory.limit_in_bytes" if v1 else "memory.max")).write_text(str(LIMIT))
    except OSError as error:
        pytest.skip(f"no control group with a limit can be made here: {error}")
    yield [folder / "cgroup.procs" for folder in folders]
    for folder in folders:
        folder.rmdir()


@pytest.mark.parametrize(
    ("fault", "code", "says"),
    [
        ("held = [bytearray(50 << 20) for _ in range(100)]", ExitCode.OUT_OF_MEMORY, "the kernel killed the engine"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", ExitCode.ENGINE, "not by the kernel"),
    ],
)
def test_a_sigkill_is_out_of_memory_only_where_the_kernel_says_so(groups, fault, code, says):
    assert_explained(groups[0], fault, code, says)


def test_what_the_kernel_kills_in_another_group_does_not_count(groups):
    other = f"open({str(groups[1])!r}, 'w').write('0'); held = [bytearray(50 << 20) for _ in range(100)]"
    fault = f"import os, signal, subprocess, sys; other = subprocess.run([sys.executable, '-c', {other!r}]); "
    fault += "os.kill(os.getpid(), -other.returncode)"
    assert_explained(groups[0], fault, ExitCode.ENGINE, "The engine was killed (SIGKILL), and not by the kernel")


def assert_explained(group: Path, fault: str, code: ExitCode, says: str) -> None:
    done = subprocess.run([sys.executable, "-c", CHILD, str(group), fault], capture_output=True, text=True, check=True)
    last = done.stdout.splitlines()[-1]
    assert last.startswith(f"{int(code)} ") and says in last
