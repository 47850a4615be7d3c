from __future__ import annotations

import os
import signal

from flows.launch import follow
from flows.launch.follow import Interrupts


def test_an_echo_of_ctrl_c_counts_once_and_a_second_one_counts(monkeypatch):
    with Interrupts() as interrupts:
        monkeypatch.setattr(follow, "ECHO_SECONDS", 3600.0)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.count == 1
        monkeypatch.setattr(follow, "ECHO_SECONDS", 0.0)
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.count == 2
