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
open(sys.argv[1] + "/cgroup.procs", "w").write(str(os.getpid()))
with Signals() as signals:
    outcome = run_child([sys.executable, "-c", sys.argv[2]], os.environ, signals, emit=print, log=print)
problem = outcome.problem()
print(int(problem.exit_code), problem.message)
"""


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group with little memory."""
    root = Path("/sys/fs/cgroup")
    v1 = (root / "memory").is_dir()
    folder = (root / "memory" if v1 else root) / f"pippa-test-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / ("memory.limit_in_bytes" if v1 else "memory.max")).write_text(str(LIMIT))
    except OSError as error:
        pytest.skip(f"no control group with a limit can be made here: {error}")
    yield folder
    folder.rmdir()


@pytest.mark.parametrize(
    ("fault", "code", "says"),
    [
        ("held = [bytearray(50 << 20) for _ in range(100)]", ExitCode.OUT_OF_MEMORY, "the kernel killed the engine"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", ExitCode.ENGINE, "not by the kernel"),
    ],
)
def test_a_sigkill_is_out_of_memory_only_where_the_kernel_says_so(group, fault, code, says):
    done = subprocess.run([sys.executable, "-c", CHILD, str(group), fault], capture_output=True, text=True, check=True)
    last = done.stdout.splitlines()[-1]
    assert last.startswith(f"{int(code)} ") and says in last
