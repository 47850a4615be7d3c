"""A log that finds no space costs neither the work nor its exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import os, sys
from trainer.output import masked_output
with masked_output(os.environ):
    sys.{stream}.write("a word")
    sys.{stream}.flush()
    sys.{stream}.write("another")
    sys.exit(7)
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_log_is_dropped_where_its_disk_is_full_and_a_result_is_not(stream, unbuffered, monkeypatch):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-c", CODE.format(stream=stream)]
        out, err = (full, subprocess.DEVNULL) if stream == "stdout" else (subprocess.DEVNULL, full)
        done = subprocess.run(command, stdout=out, stderr=err, check=False)
    assert (done.returncode == 7) == (stream == "stderr") and done.returncode
