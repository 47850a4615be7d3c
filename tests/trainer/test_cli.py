"""What every command of the trainer does before anything else."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

CODE = """
import trainer.cli
try:
    trainer.cli.main(["--version"])
except SystemExit:
    import torch
"""


@pytest.mark.parametrize(("policy", "spins"), [({}, "1000"), ({"OMP_WAIT_POLICY": "passive"}, "0")])
def test_openmp_s_threads_soon_sleep_while_they_wait_and_as_the_user_says(policy: dict[str, str], spins: str) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env={**environ, "OMP_DISPLAY_ENV": "verbose", **policy},
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr) == [spins], done.stderr
