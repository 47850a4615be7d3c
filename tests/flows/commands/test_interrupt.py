"""``pippa train`` as a person has it in a terminal: Ctrl-C, and worse."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator

import pytest

from tests.support.pippa import SUPPORT, Pippa
from tests.support.processes import kill_at_once
from tests.support.waiting import PATIENCE, until
from trainer.store import registry, runs
from trainer.store.s3 import S3Store


@pytest.fixture
def pippa(stack, tmp_path) -> Iterator[Pippa]:
    environ = {
        **{name: os.environ[name] for name in ("PATH", "LANG", "HOME") if name in os.environ},
        **stack,
        "PYTHONPATH": str(SUPPORT.parents[1]),
        "PIPPA_FINETUNE_COMMAND": f"{sys.executable} {SUPPORT / 'fake_engine.py'}",
        "PIPPA_EVALUATE_COMMAND": f"{sys.executable} {SUPPORT / 'fake_evaluate.py'}",
        # At step 6 it waits for the end that a test puts to it.
        "FAKE_ENGINE": json.dumps({"pause_at": 6, "pause_file": str(tmp_path / "go on")}),
        "WANDB_MODE": "offline",
    }
    pippa = Pippa(tmp_path, environ)
    yield pippa
    kill_at_once(pippa.left())


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(pippa, s3_settings):
    process = pippa.train()
    pippa.wait_for("step 6/60", process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    text = pippa.output.read_text()
    assert "Ctrl-C again" in text and f"pippa runs resume {pippa.run_id}" in text and "Traceback" not in text
    assert pippa.left() == []
    saved = max(registry.list_checkpoints(S3Store(s3_settings), pippa.run_id), key=lambda each: each.step)
    assert 6 <= saved.step < 60

    resumed = pippa.start("runs", "resume", pippa.run_id)
    assert resumed.wait(PATIENCE) == 0, pippa.output.read_text()
    assert f"{saved.run_id}/60" in pippa.output.read_text()


def test_a_killed_pippa_leaves_no_process_and_loses_no_step(pippa, s3_settings):
    process = pippa.train()
    pippa.wait_for("step 6/60", process)
    run_id = pippa.run_id
    process.kill()
    process.wait()
    until(lambda: pippa.left() == [], pippa.output.read_text)
    store = S3Store(s3_settings)
    saved = max(registry.list_checkpoints(store, run_id), key=lambda each: each.step)
    state = runs.read_state(store, run_id)
    assert saved.step >= 6 and state is not None and state.status == "stopped"


@pytest.mark.slow
def test_sigterm_ends_in_143_with_everything_saved(pippa, s3_settings):
    process = pippa.train()
    pippa.wait_for("step 6/60", process)
    process.terminate()
    assert process.wait(PATIENCE) == 143
    assert f"pippa runs resume {pippa.run_id}" in pippa.output.read_text()
    assert pippa.left() == [] and registry.list_checkpoints(S3Store(s3_settings), pippa.run_id)
