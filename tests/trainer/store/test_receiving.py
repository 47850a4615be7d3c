"""Files that arrive, also where the system has less than Linux."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest

CODE = """
import os, sys
if sys.argv[2] == "macos":
    del os.fdatasync
from pathlib import Path
from trainer.store import receiving
receiving._SYNC_BYTES = 1000
with receiving.ReceivedFile(Path(sys.argv[1])) as received:
    for _ in range(20):
        received.write(b"x" * 700)
    received.sync()
    print(received.size, received.sha256())
"""


@pytest.mark.parametrize("system", ["linux", "macos"])
def test_a_file_is_hashed_and_synced_as_it_arrives(tmp_path, system):
    file = tmp_path / "file"
    command = [sys.executable, "-c", CODE, str(file), system]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    content = b"x" * 14_000
    assert file.read_bytes() == content
    assert done.stdout.split() == ["14000", hashlib.sha256(content).hexdigest()]
