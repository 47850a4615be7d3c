from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

FOLLOWER = """
import time
from trainer.runner.parent_watch import die_with_parent
die_with_parent(interval=0.05)
print('up', flush=True)
time.sleep(60)
"""
PARENT = """
import os, subprocess, sys
from trainer.runner.parent_watch import child_environment
argv = [sys.executable, "-c", sys.argv[1]]
if sys.argv[2] == "wrapped":
    argv = ["sh", "-c", '"$@" & wait', "sh", *argv]
child = subprocess.Popen(argv, env={**os.environ, **child_environment()}, stdout=subprocess.PIPE, text=True)
child.stdout.readline()
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("how", ["direct", "wrapped"])
def test_a_follower_ends_once_its_parent_was_killed(how):
    reading, writing = os.pipe()
    # The follower inherits the pipe's end; its reader sees the end of file when the last holder is gone.
    parent = subprocess.Popen([sys.executable, "-c", PARENT, FOLLOWER, how], stderr=writing)
    os.close(writing)
    assert parent.wait() == -signal.SIGKILL
    with os.fdopen(reading) as stream:
        stream.read()


def test_nothing_happens_without_a_parent_named():
    environ = {name: value for name, value in os.environ.items() if name != "PIPPA_PARENT_PID"}
    code = "import threading, trainer.runner.parent_watch as p; p.die_with_parent(); print(threading.active_count())"
    assert subprocess.check_output([sys.executable, "-c", code], env=environ, text=True).strip() == "1"
