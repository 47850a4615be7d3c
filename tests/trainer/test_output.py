"""What can't be written to stdout or stderr costs no work; a result that is not complete ends with 6."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import os, sys
from trainer.output import masked_output, require_reader, stdout_is_log
with masked_output(os.environ) as output:
    {before}
    sys.{stream}.write("a word")
    sys.{stream}.flush()
    {between}
    sys.{stream}.write("another")
    sys.exit(output.finished({code}))
"""
FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")


def ended(redirection: str, stream: str = "stdout", before: str = "", between: str = "", code: int = 0) -> list:
    """The exit code and what stderr got where a program's output is redirected as in a shell."""
    program = CODE.format(stream=stream, before=before or "pass", between=between or "pass", code=code)
    command = ["bash", "-c", f'set -o pipefail; "$@" {redirection}', "bash", sys.executable, "-c", program]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False, text=True)
    return [done.returncode, done.stderr.splitlines()]


@FULL
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_result_that_finds_no_space_is_an_error_said_once(unbuffered: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    said = ["error: stdout is not complete: No space left on device.", "Free space where it is written to."]
    assert ended("> /dev/full") == [6, said]
    assert ended("> /dev/full", code=8) == [8, said]
    assert ended("> /dev/full", before="stdout_is_log()") == [0, said]


@FULL
def test_a_log_that_finds_no_space_is_dropped() -> None:
    assert ended("2> /dev/full", "stderr", code=7)[0] == 7


def test_output_that_nobody_reads_is_dropped_in_silence() -> None:
    wait = "import time; time.sleep(0.3); sys.stdout.flush()"
    assert ended("| true", before=wait, code=3) == [3, []]
    assert ended("2>&1 | true", "stderr", before=wait, code=3) == [3, []]
    assert ended("| true", before=wait, between="require_reader()") == [141, []]
    assert ended(">&-", code=3) == [3, []]
