"""What runs on this machine, with /proc and without."""

from __future__ import annotations

import os
import subprocess
import sys
from uuid import uuid4

import pytest

from flows.launch import process_table

MAC_PS = """#!/bin/sh
# macOS's, as far as it is asked: -E adds the environment behind the command.
[ "$*" = "-A -E -ww -o command=" ] || exec /bin/ps "$@"
echo "/sbin/launchd"
echo "/opt/python -m prefect.engine HOME=/Users/me PREFECT__FLOW_RUN_ID=$FLOW_RUN PATH=/bin"
"""


@pytest.fixture
def no_proc(monkeypatch, tmp_path):
    monkeypatch.setattr(process_table, "PROC", tmp_path / "none")


@pytest.fixture
def child():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_children_by_proc(child):
    assert child.pid in process_table.children()


def test_children_without_proc(child, no_proc):
    assert child.pid in process_table.children()


def test_without_proc_and_ps_nothing_is_known(no_proc, monkeypatch, tmp_path, child):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert process_table.children() == [] and not process_table.has_process(uuid4())


def test_the_process_of_a_flow_run_by_proc():
    run = uuid4()
    assert not process_table.has_process(run)
    environ = {"PREFECT__FLOW_RUN_ID": str(run)}
    command = [sys.executable, "-c", "print(flush=True); input()"]
    with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()  # it has its environment
        assert process_table.has_process(run)
        process.kill()


def test_the_process_of_a_flow_run_without_proc(no_proc, monkeypatch, tmp_path):
    run = uuid4()
    (tmp_path / "ps").write_text(MAC_PS)
    (tmp_path / "ps").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FLOW_RUN", str(run))
    assert process_table.has_process(run) and not process_table.has_process(uuid4())
