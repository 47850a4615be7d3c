"""A signal ends the server within seconds, though what it interrupts does not let it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

PRELUDE = """
import atexit, hashlib, signal, sys, threading, time
from trainer.serving.ending import end_by_signals
end_by_signals(grace=0.5)
"""
READY = "print('ready', flush=True)\n"
BUSY = {
    "nothing": READY + "time.sleep(600)",
    "code that catches everything": "def work():\n  while True:\n    try: time.sleep(600)\n"
    "    except BaseException: pass\n" + READY + "work()",
    "a destructor": "class Slow:\n  def __del__(self): print('ready', flush=True); time.sleep(600)\n"
    "slow = Slow()\ndel slow\ntime.sleep(600)",
    "a call into C": READY + "hashlib.pbkdf2_hmac('sha512', b'', b'', 2**31 - 1)",
    "a thread that is waited for": "threading.Thread(target=time.sleep, args=(600,)).start()\n"
    + READY
    + "time.sleep(600)",
    "an end that takes long": "atexit.register(time.sleep, 600)\n" + READY + "time.sleep(600)",
}


@pytest.mark.parametrize(
    ("busy", "number"),
    [*((busy, signal.SIGTERM) for busy in BUSY), ("nothing", signal.SIGINT), ("nothing", signal.SIGHUP)],
)
def test_a_signal_ends_it_whatever_it_does(busy, number):
    # In a new session: under nohup SIGHUP would be ignored.
    code = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)\n{PRELUDE}{BUSY[busy]}"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    finally:
        process.kill()
        process.communicate()
