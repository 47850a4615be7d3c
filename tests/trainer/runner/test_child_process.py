from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from tests.support.waiting import PATIENCE
from trainer.errors import ExitCode
from trainer.events import ProgressEvent
from trainer.runner import child_process
from trainer.runner.child_process import Interrupted, Signals, run_child


class Seen:
    def __init__(self):
        self.events = []
        self.lines = []
        self.arrived = threading.Event()

    def log(self, line):
        self.lines.append(line)
        self.arrived.set()


def run(code, signals=None, seen=None, **options):
    seen = seen or Seen()
    with signals or Signals() as active:
        command = [sys.executable, "-uc", code]
        outcome = run_child(command, os.environ, active, emit=seen.events.append, log=seen.log, **options)
    return outcome, seen


def test_events_are_relayed_and_other_lines_logged():
    code = """
import sys
print('{"event":"progress","step":1,"of":2}')
print('{"event":"checkpoint","step":1,"digest":"x","bytes_uploaded":0,"seconds":0}')
print('{"event":"done"}')
print('plain')
sys.stderr.write('on stderr\\r 50%|## | 1/2 [a]\\r100%|####| 2/2 [b]\\n')
sys.stderr.write('no newline at the end')
"""
    outcome, seen = run(code)
    assert outcome.returncode == 0 and outcome.problem() is None
    assert [type(event) for event in seen.events] == [ProgressEvent]
    assert sorted(seen.lines) == ["100%|####| 2/2 [b]", "no newline at the end", "on stderr", "plain"]


def test_an_error_event_explains_the_end():
    outcome, seen = run("""print('{"event":"error","code":5,"message":"m","hint":"h"}'); raise SystemExit(5)""")
    problem = outcome.problem()
    assert problem is not None and problem.exit_code == ExitCode.OUT_OF_MEMORY and problem.hint == "h"
    assert seen.events == []


SAVES_ON_SIGTERM = """
import signal, sys, time
def stop(*_):
    print('saving', flush=True); time.sleep(0.2); print('saved', flush=True); sys.exit(143)
signal.signal(signal.SIGTERM, stop)
print('up', flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_child_once_as_sigterm(number):
    seen, signals = Seen(), Signals()

    def send():
        seen.arrived.wait()
        os.kill(os.getpid(), number)

    threading.Thread(target=send).start()
    outcome, _ = run(SAVES_ON_SIGTERM, signals, seen)
    assert seen.lines == ["up", "saving", "saved"]
    assert outcome.returncode == 143 and signals.exit_code == 128 + number and not signals.repeated


def test_a_signal_that_another_thread_gets_reaches_the_child_too():
    seen, signals = Seen(), Signals()

    def get():
        seen.arrived.wait()
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    threading.Thread(target=get).start()
    outcome, _ = run(SAVES_ON_SIGTERM, signals, seen)
    assert outcome.returncode == 143 and seen.lines == ["up", "saving", "saved"]


def test_a_second_signal_kills_the_whole_group(monkeypatch):
    monkeypatch.setattr(child_process, "ECHO_SECONDS", 0.0)
    seen, signals = Seen(), Signals()
    code = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, lambda *_: print('ignored', flush=True))
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])
print(child.pid, flush=True)
while True: time.sleep(1)
"""

    def send():
        seen.arrived.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        while "ignored" not in seen.lines:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=send).start()
    outcome, _ = run(code, signals, seen)
    assert outcome.returncode == -signal.SIGKILL and signals.repeated
    psutil.wait_procs([psutil.Process(pid) for pid in [int(seen.lines[0])] if psutil.pid_exists(pid)], timeout=PATIENCE)
    assert not psutil.pid_exists(int(seen.lines[0])) or psutil.Process(int(seen.lines[0])).status() == "zombie"


def test_an_echo_of_a_signal_is_no_second_one(monkeypatch):
    monkeypatch.setattr(child_process, "ECHO_SECONDS", 3600.0)
    seen, signals = Seen(), Signals()

    def send():
        seen.arrived.wait()
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=send).start()
    outcome, _ = run(SAVES_ON_SIGTERM, signals, seen)
    assert outcome.returncode == 143 and seen.lines == ["up", "saving", "saved"] and not signals.repeated


def test_what_the_child_leaves_behind_is_killed():
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    outcome, _ = run(code)  # would hang on the pipes the grandchild inherited
    assert outcome.returncode == 0


def test_before_the_training_a_signal_ends_the_work_at_once():
    with Signals() as signals, pytest.raises(Interrupted):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    assert signals.exit_code == ExitCode.TERMINATED


def test_a_missing_program_is_an_os_error():
    with Signals() as signals, pytest.raises(FileNotFoundError):
        run_child(["/absent"], {}, signals, emit=lambda _: None, log=lambda _: None)


def test_the_light_modules_import_nothing_heavy():
    code = (
        "import sys, trainer.runner.command, trainer.cli, trainer.runner.doctor;"
        "heavy = {'torch', 'transformers', 'wandb', 'prefect', 'pyarrow', 'av', 'numpy', 'huggingface_hub', 'tyro'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
