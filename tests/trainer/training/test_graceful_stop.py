"""Stopped by a signal, a training finishes its step and saves; before it trains it just ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from tests.support.training import Training
from tests.support.waiting import PATIENCE
from trainer.runner import checkpoint_folder

MakeTraining = Callable[..., Training]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "workers"),
    [(signal.SIGTERM, 143, 2), (signal.SIGINT, 130, 0)],
)
def test_a_signal_ends_it_with_a_checkpoint(training: MakeTraining, number: int, code: int, workers: int) -> None:
    stopped = training("stopped", max_steps=10_000, save_steps=10_000, dataloader_num_workers=workers)
    process = stopped.start()
    stopped.wait_for_event("progress", process)
    os.kill(process.pid or 0, number)
    process.join(PATIENCE)
    assert process.exitcode == code, stopped.log.read_text()
    (step,) = stopped.steps
    assert 0 < step < 10_000
    assert checkpoint_folder.problem(stopped.checkpoint(step), step) is None
    assert (stopped.output_dir / "trainer_state.json").is_file()
    assert "Traceback" not in stopped.log.read_text()


@pytest.mark.slow
def test_while_loading_it_ends_at_once(training: MakeTraining) -> None:
    stopped = training("stopped")
    process = stopped.start(only_loads=True)
    stopped.wait_for_event("load", process)
    os.kill(process.pid or 0, signal.SIGTERM)
    process.join(PATIENCE)
    assert process.exitcode == 143
    assert stopped.steps == []
    assert '"train"' not in stopped.log.read_text()
