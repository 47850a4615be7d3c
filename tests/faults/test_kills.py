"""SIGKILL at random moments, with the real engine: a restart continues from the last committed step, to the same bits.

``PIPPA_KILLS`` is how often each part is killed, ``PIPPA_KILLS_SEED`` decides when; both are in the log (``-rA`` or
``--log-level INFO`` shows it).
"""

from __future__ import annotations

import logging
import os
import random
import re
import time
from pathlib import Path

import psutil
import pytest

from tests.support.pippa import BarePippa, bare_pippa
from tests.support.processes import kill_at_once
from tests.support.training import Training, assert_same_training
from tests.support.waiting import PATIENCE, until
from trainer.events import PhaseEvent, parse_event
from trainer.runner.checkpoint_folder import checkpoints
from trainer.store import registry, snapshots

PARTS = {"engine": "trainer.finetune", "trainer": "trainer.cli", "tree": ""}
"""What is killed, and what is in the command of its processes."""
KILLS = int(os.environ.get("PIPPA_KILLS", "2"))
SEED = int(os.environ.get("PIPPA_KILLS_SEED") or time.time_ns() % 100_000)
STEPS = 25 * len(PARTS) * max(KILLS, 1)
"""Enough for each kill to find it training."""
FLAGS = ("--max-steps", str(STEPS), "--save-steps", "10", "--batch-size", "2", "--dataloader-num-workers", "1")
FLAGS += ("--evaluate", "none")
LOG = logging.getLogger(__name__)


class Killed:
    """A training that is killed again and again."""

    def __init__(self, pippa: BarePippa) -> None:
        self.pippa = pippa
        self.process = pippa.start("train", "smoke", *FLAGS)
        self.find("engine")
        self.run_id = pippa.run_id
        self.folder = pippa.home / "runs" / self.run_id

    def find(self, part: str) -> list[psutil.Process]:
        """The processes of ``part``, once there are any; none when pippa has ended before."""

        def look() -> list[psutil.Process]:
            return [each for each in self.pippa.left() if PARTS[part] in _command(each)]

        until(lambda: look() or self.process.poll() is not None, self.pippa.output.read_text)
        return look()

    def committed(self) -> int:
        """The newest checkpoint that is whole on this disk."""
        return max((step for each in self.folder.glob("*/") for step in checkpoints(each)), default=0)

    def continued(self) -> list[int]:
        """From which steps it went on, so far."""
        lines = (self.folder / "events.jsonl").read_text().splitlines()
        messages = [event.message for line in lines if isinstance(event := parse_event(line), PhaseEvent)]
        return [int(found[1]) for message in messages if (found := re.match(r"Continuing from step (\d+)", message))]

    def kill(self, part: str) -> None:
        """SIGKILL to ``part``; pippa starts a lost trainer again by itself."""
        killed = self.find(part)
        kill_at_once(killed)
        # An engine that lost its trainer saves and ends; the whole tree has nobody who could.
        psutil.wait_procs(killed, timeout=PATIENCE)
        engines = [each for each in self.pippa.left() if PARTS["engine"] in _command(each)]
        psutil.wait_procs(engines, timeout=PATIENCE)

    def go_on(self) -> None:
        """Until there is an engine again: pippa starts a lost trainer by itself; else it has ended, with all else."""
        if not self.find("engine"):
            until(lambda: not self.pippa.left(), lambda: str([_command(each) for each in self.pippa.left()]))
            self.process = self.pippa.start("runs", "resume", self.run_id)
            self.find("engine")


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, made_prefect: Path) -> tuple[BarePippa, str, float]:
    """A home with a training that nobody disturbed, its run id, and the seconds until its engine's first checkpoint."""
    with bare_pippa(tmp_path_factory.mktemp("kills")) as pippa:
        for name in ("PIPPA_FINETUNE_COMMAND", "FAKE_ENGINE"):
            del pippa.environ[name]
        pippa.environ |= {"PIPPA_TRAININGS_PER_GPU": "9", "OMP_NUM_THREADS": "1"}
        pippa.has_run(made_prefect)
        environ = dict(pippa.environ)
        pippa.is_not_recorded()
        training = Killed(pippa)
        began = time.monotonic()
        until(training.committed, pippa.output.read_text, alive=lambda: training.process.poll() is None)
        seconds = time.monotonic() - began
        assert training.process.wait(PATIENCE) == 0, pippa.output.read_text()
        pippa.environ = environ
    return pippa, training.run_id, seconds


def outcome(pippa: BarePippa, run_id: str) -> Training:
    (last,) = (pippa.home / "runs" / run_id).glob(f"*/checkpoint-{STEPS}")
    return Training({"output_dir": last.parent})


@pytest.mark.slow
def test_a_training_killed_at_random_moments_ends_bit_for_bit_as_one_that_was_not(undisturbed):
    pippa, reference, first_save = undisturbed
    chance = random.Random(SEED)
    LOG.info("%d kills of each part, seed %d", KILLS, SEED)
    training = Killed(pippa)
    for part in chance.sample([*PARTS] * KILLS, len(PARTS) * KILLS):
        started = min((each.create_time() for each in training.find("engine")), default=0.0)
        before, committed = len(training.continued()), training.committed()
        # Half of them at any moment until it saves, half around its saving.
        if after_a_save := chance.random() < 0.5:
            until(lambda: training.committed() > committed)  # noqa: B023
            started = time.time()
        seconds = chance.uniform(0, 0.5 if after_a_save else first_save)
        # Not after many more steps: a training that is faster than the undisturbed one has to have some left.
        enough = committed + 20
        until(lambda: time.time() >= started + seconds or training.committed() >= enough)  # noqa: B023
        training.kill(part)
        committed = training.committed()
        training.go_on()
        assert training.continued()[before:] == ([committed] if committed else [])
        moment = f"{seconds:.2f} s after {'a save' if after_a_save else 'the start'}"
        LOG.info("%s killed %s: it continued from step %d", part, moment, committed)
    code = training.process.wait(PATIENCE)
    assert code == 0, pippa.output.read_text()
    until(lambda: not pippa.left())

    assert_same_training(outcome(pippa, training.run_id), outcome(pippa, reference), STEPS)
    entries = registry.list_checkpoints(pippa.store, training.run_id)
    damage = [each for entry in entries for each in snapshots.verify(pippa.store, entry.snapshot)]
    assert entries[-1].step == STEPS and not damage
    assert registry.resolve(pippa.store, "smoke/latest").run_id == training.run_id
    assert "RUNNING" not in pippa.states().values()
