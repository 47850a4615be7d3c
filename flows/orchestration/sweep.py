"""A sweep: the trainings of a grid, each a separate ``pippa train`` process, and what is known of them.

A sweep's runs are those of its W&B group, and a run belongs to the point with its configuration: the store, or the
team's Prefect server, is all that a sweep remembers. Trainings wait for GPUs as any others do; here is decided only how
many are started at a time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from flows.launch import machine
from flows.views.failure import can_be_resumed
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.grid import Grid, Point
from trainer.config.run_spec import Engine
from trainer.runner.parent_watch import child_environment
from trainer.store import runs
from trainer.store.object_store import ObjectStore

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

Plan: TypeAlias = Literal["done", "resume", "follow", "start"]
"""What becomes of a point: it is left as it is, its run is continued or only watched, or a new run is started."""

TICK_SECONDS = 0.2


@dataclass
class SweepTraining:
    """A point of the grid and its run."""

    number: int
    point: Point
    plan: Plan = "start"
    run_id: str | None = None
    """The run that it has already."""
    log: Path | None = None
    """Where its process writes; None for this terminal."""
    exit_code: int | None = None
    """Of its process, once that has ended."""

    @property
    def failed(self) -> bool:
        """Whether it ended, and not well."""
        return self.exit_code not in (None, 0)


class Known(NamedTuple):
    """A run of the sweep."""

    run_id: str
    config: FinetuneConfig
    plan: Plan


def trainings(grid: Grid, known: Sequence[Known]) -> list[SweepTraining]:
    """The points of ``grid`` with their runs among ``known``: the one that is done, else the newest."""
    found = []
    for number, point in enumerate(grid.points, 1):
        training = SweepTraining(number, point)
        for run in known:
            if run.config == point.config and training.plan != "done":
                training.run_id, training.plan = run.run_id, run.plan
        found.append(training)
    return found


def in_store(store: ObjectStore, grid: Grid, engine: Engine) -> list[Known]:
    """The sweep's runs in ``store``, the oldest first; damaged ones are no part of it."""
    wanted = (grid.name, grid.preset, engine)
    return [
        Known(run.spec.run_id, run.spec.config, _plan(run.state))
        for run in runs.list_runs(store, [])
        if (run.spec.wandb.group, run.spec.preset, run.spec.engine) == wanted
    ]


def submitted(client: SyncPrefectClient, grid: Grid, engine: Engine) -> list[Known]:
    """The sweep's runs that the team's Prefect server knows, the oldest first."""
    from flows.orchestration import remote

    plans: dict[str, Plan] = {"done": "done", "active": "follow", "ended": "resume"}
    return [
        Known(run.run_id, run.config, plans[run.state])
        for run in remote.of_group(client, grid.name)
        if (run.engine or engine) == engine
    ]


def _plan(state: runs.RunState | None) -> Plan:
    if state is not None and state.status == "done":
        return "done"
    # What went wrong for good is tried again from the start: a dataset may be another one by now.
    return "start" if state is not None and not can_be_resumed(state.exit_code) else "resume"


def at_once(grid: Grid, launcher: str) -> int:
    """How many trainings this machine has GPUs for at a time; where a pool of workers has the queue, all of them."""
    if launcher == "remote":
        return len(grid.points)
    gpus = len(machine.gpus("docker" if launcher == "docker" else "process")) or 1
    return max(gpus * machine.trainings_per_gpu() // max(point.config.num_gpus for point in grid.points), 1)


def command(grid: Grid, training: SweepTraining, launcher: str, engine: Engine) -> list[str]:
    """What is typed after ``pippa`` for a training that is not done."""
    if training.plan == "follow":
        return ["runs", "follow", str(training.run_id)]
    if training.plan == "resume":
        return ["runs", "resume", str(training.run_id), "--launcher", launcher]
    flags = [*training.point.argv, "--name", training.point.name, "--launcher", launcher, "--engine", engine]
    return ["train", *grid.preset_argv, *flags]


@dataclass
class Queue:
    """Runs commands of ``pippa``, ``at_once`` of them at a time, to the end of all: one that fails stops no other."""

    at_once: int
    environ: Mapping[str, str]
    began: Callable[[SweepTraining], None]
    ended: Callable[[SweepTraining], None]
    _running: dict[int, tuple[SweepTraining, subprocess.Popen[bytes]]] = field(default_factory=dict)

    def run(self, pending: Sequence[tuple[SweepTraining, list[str]]]) -> KeyboardInterrupt | SystemExit | None:
        """Run ``pending`` in its order; what stopped the queue early, where something did.

        Ctrl-C or a signal is passed on to the trainings, which save; nothing further is started, and all are waited
        for. A second one is passed on as well.
        """
        waiting, stopped = list(pending), None
        while self._running or (waiting and stopped is None):
            try:
                while waiting and stopped is None and len(self._running) < self.at_once:
                    self._start(*waiting.pop(0))
                time.sleep(TICK_SECONDS)
                self._collect()
            except (KeyboardInterrupt, SystemExit) as signalled:
                stopped = stopped or signalled
                self._pass_on(signal.SIGINT if isinstance(signalled, KeyboardInterrupt) else signal.SIGTERM)
        return stopped

    def _start(self, training: SweepTraining, words: list[str]) -> None:
        self.began(training)
        environ = {**os.environ, **self.environ, **child_environment()}
        output = None
        if training.log is not None:
            training.log.parent.mkdir(parents=True, exist_ok=True)
            output = training.log.open("ab")
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "flows.cli", *words],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
            )
        finally:
            if output is not None:
                output.close()
        self._running[training.number] = training, process

    def _collect(self) -> None:
        for number, (training, process) in list(self._running.items()):
            if (code := process.poll()) is not None:
                del self._running[number]
                training.exit_code = 128 - code if code < 0 else code
                self.ended(training)

    def _pass_on(self, number: signal.Signals) -> None:
        for _, process in self._running.values():
            process.send_signal(number)
