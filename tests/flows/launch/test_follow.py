from __future__ import annotations

import os
import signal
import time

from flows.launch.follow import ECHO_SECONDS, Interrupts


def test_an_echo_of_ctrl_c_counts_once_and_a_second_one_counts():
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.count == 1
        time.sleep(2 * ECHO_SECONDS)
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.count == 2
