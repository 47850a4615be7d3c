"""One background program shared by processes: real processes, real signals."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from flows.embedded.service import Program, SharedService
from tests.support.waiting import PATIENCE, until
from trainer.errors import PippaError

# Says it is up by writing its pid; ends at SIGTERM, or when told to, or never at all.
PROGRAM = """
import os, pathlib, signal, sys, time
mode = sys.argv[1]
print("the program speaks", flush=True)
if mode == "crash":
    print("no such setting: banana", flush=True)
    sys.exit(3)
if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path("new").write_text(str(os.getpid()))
pathlib.Path("new").rename("pid")  # nobody reads half of it
while not (mode == "mortal" and pathlib.Path("die").exists()):
    time.sleep(0.02)
"""

# A process that uses the service until it is told to stop.
USER = """
import sys, time
from pathlib import Path
from tests.flows.embedded.test_service import toy
home = Path(sys.argv[1])
with toy(home) as connection:
    (home / sys.argv[2]).write_text(connection["secret"])
    while not (home / "enough").exists():
        time.sleep(0.02)
"""


def toy(home: Path, mode: str = "normal", grace: float = 2.0) -> SharedService:
    def prepare(folder: Path) -> Program:
        (folder / "pid").unlink(missing_ok=True)
        return Program(
            argv=[sys.executable, "-I", "-S", "-c", PROGRAM, mode],
            environ={"PATH": os.defpath},
            connection={"secret": os.urandom(8).hex()},
        )

    return SharedService(
        home,
        "toy",
        prepare=prepare,
        healthy=lambda _: psutil.pid_exists(int((home / "toy" / "pid").read_text())),
        timeout=PATIENCE,
        grace=grace,
    )


def program_pid(home: Path) -> int:
    return int((home / "toy" / "pid").read_text())


def processes(home: Path) -> list[psutil.Process]:
    """Guards and programs of this home that are alive."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.cwd() == str(home / "toy"):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for process in processes(tmp_path):
        process.kill()


def start_user(home: Path, name: str, **options: object) -> subprocess.Popen[bytes]:
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(USER), str(home), name], env=environ, **options)  # pyrefly: ignore
    until(lambda: bool((home / name).exists() and (home / name).read_text()), f"user {name}")
    return process


def test_two_processes_share_one_program_and_it_ends_with_the_last(home: Path) -> None:
    first, second = start_user(home, "first"), start_user(home, "second")
    assert (home / "first").read_text() == (home / "second").read_text()
    pid = program_pid(home)
    first.kill()  # -9: no chance to say goodbye
    first.wait()
    time.sleep(0.6)  # several of the guard's polls
    assert psutil.pid_exists(pid)
    second.kill()
    second.wait()
    until(lambda: not processes(home), "the end of guard and program")
    assert not (home / "toy" / "server.json").exists()


def test_when_the_last_user_leaves_nothing_is_left_at_once(home: Path) -> None:
    with toy(home):
        assert len(processes(home)) == 2
        with toy(home):  # a second user in the same process
            pass
        assert len(processes(home)) == 2
        pid = program_pid(home)
    assert not psutil.pid_exists(pid)
    until(lambda: not processes(home), "the guard's last instructions")


def test_a_program_that_ignores_sigterm_is_killed(home: Path) -> None:
    with toy(home, "stubborn", grace=0.5):
        pid = program_pid(home)
    assert not psutil.pid_exists(pid)


def test_credentials_are_private(home: Path) -> None:
    with toy(home) as connection:
        file = home / "toy" / "server.json"
        assert connection["secret"] in file.read_text()
        assert file.stat().st_mode & 0o077 == 0
        assert not any(connection["secret"] in " ".join(process.cmdline()) for process in processes(home))


def test_ctrl_c_in_the_terminal_does_not_reach_the_program(home: Path) -> None:
    ours, terminal = pty.openpty()
    user = start_user(home, "user", stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True)
    with toy(home):
        pid = program_pid(home)
        os.killpg(user.pid, signal.SIGINT)  # what the terminal does to its foreground group
        assert user.wait(PATIENCE) != 0
        time.sleep(0.3)
        assert psutil.pid_exists(pid)
    os.close(ours)
    os.close(terminal)


def test_a_crash_while_starting_is_reported_with_the_log(home: Path) -> None:
    with pytest.raises(PippaError) as caught, toy(home, "crash"):
        pass
    assert "no such setting: banana" in caught.value.message
    assert "exit code 3" in caught.value.message
    assert "server.log" in caught.value.hint
    until(lambda: not processes(home), "the guard's end")


def test_a_program_that_cannot_be_started_is_reported(home: Path) -> None:
    service = SharedService(
        home,
        "toy",
        prepare=lambda _: Program(argv=["/nowhere/program"], environ={}, connection={}),
        healthy=lambda _: False,
    )
    with pytest.raises(PippaError, match="can't start /nowhere/program"), service:
        pass


def test_one_that_worked_and_died_comes_back_with_the_same_connection(home: Path) -> None:
    with toy(home) as connection:
        pid = program_pid(home)
        os.kill(pid, signal.SIGKILL)
        until(lambda: program_pid(home) != pid, "the restart")
        with toy(home) as again:
            assert again == connection


def test_a_stale_record_is_replaced(home: Path) -> None:
    with toy(home) as before:
        record = (home / "toy" / "server.json").read_text()
        ready = (home / "toy" / "ready").read_text()
    (home / "toy" / "server.json").write_text(record)  # as a power cut would leave it
    (home / "toy" / "ready").write_text(ready)
    with toy(home) as after:
        assert after != before
        assert psutil.pid_exists(program_pid(home))


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
def test_a_killed_guard_takes_the_program_along_and_the_next_user_starts_anew(home: Path) -> None:
    with toy(home):
        pid = program_pid(home)
        (guard,) = [process for process in processes(home) if process.pid != pid]
        guard.kill()
        until(lambda: not processes(home), "the program's end")
        with toy(home):
            assert program_pid(home) != pid
    until(lambda: not processes(home), "the end of all")


def test_a_user_who_arrives_while_it_stops_gets_a_new_one(home: Path) -> None:
    for _ in range(4):
        service = toy(home)
        service.start()
        service.wait_ready()
        pid = program_pid(home)
        service._release()  # what the kernel does when a user is killed
        time.sleep(0.2)  # about when the guard notices
        with toy(home):
            assert psutil.pid_exists(program_pid(home))
        assert not psutil.pid_exists(pid) or program_pid(home) == pid
    until(lambda: not processes(home), "the end of all")


def test_a_forked_child_does_not_keep_it_alive(home: Path) -> None:
    service = toy(home)
    service.start()
    service.wait_ready()
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    try:
        service.stop()
        until(lambda: not processes(home), "the end of guard and program")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
