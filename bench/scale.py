"""What many workers, GPUs and machines would do, on a simulated clock: ``uv run python -m bench.scale``.

A model of a training in four processes: loaders, GPUs in step with each other, the thread that writes checkpoints, and
the one that uploads them. Its constants are GR00T N1.5's sizes and what the other benchmarks measured. It says where
things queue; what doesn't queue is arithmetic, in docs/scale.md.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

import simpy

from bench.table import report, table
from trainer.runner.checkpoint_registration import STATE_PAUSE

PREFETCHED = 2
"""Batches that each loading process keeps ready, as torch's DataLoader does."""
DECODED, CACHED, UPSTREAM = 0.058, 0.0019, 0.176
"""Seconds of CPU for a sample: decoded by us, from our frame cache (bench.data), upstream's with torchcodec."""


@dataclass(frozen=True)
class Setup:
    """One training. Sizes in bytes, speeds in bytes per second, times in seconds."""

    steps: int = 1000
    batch: int = 32
    gpus: int = 1
    step: float = 0.6
    sample: float = CACHED
    spread: float = 0.3
    """Standard deviation of the logarithm of a sample's time."""
    workers: int = 8
    """Loading processes per GPU."""
    cores: int = 8
    """Per GPU."""
    gradients: float = 4.28e9
    between_gpus: float = 300e9
    save_steps: int = 1000
    tuned: float = 4.28e9
    state: float = 8.55e9
    to_host: float = 25e9
    disk: float = 1e9
    link: float = 1.25e9


@dataclass
class Outcome:
    """What came of a simulated training; shares are of the time until its last step."""

    seconds: float = 0.0
    waiting_for_data: float = 0.0
    standing_still: float = 0.0
    """For checkpoints."""
    most_pending: int = 0
    """Checkpoints on the disk that were not in the store yet."""
    after: float = 0.0
    """Seconds from the last step to the last checkpoint in the store."""
    states_sent: int = 0


class Training:
    """One training on a simulated clock; several may share one ``link``."""

    def __init__(self, clock: simpy.Environment, setup: Setup, link: simpy.Resource, seed: int = 0) -> None:
        self.outcome = Outcome()
        self._clock, self._setup, self._link = clock, setup, link
        self._random = random.Random(seed)
        self._disk = simpy.Resource(clock)
        self._pending: simpy.Store = simpy.Store(clock)
        self._batches = [simpy.Store(clock, capacity=PREFETCHED * setup.workers) for _ in range(setup.gpus)]
        for ready in self._batches:
            for _ in range(setup.workers):
                clock.process(self._load(ready))
        self.uploaded = clock.process(self._upload())
        clock.process(self._train())

    def _load(self, ready: simpy.Store) -> Generator[simpy.Event, Any, None]:
        setup = self._setup
        crowded = max(1.0, setup.workers / setup.cores)
        while True:
            samples = (self._random.lognormvariate(0, setup.spread) for _ in range(setup.batch))
            yield self._clock.timeout(setup.sample * crowded * sum(samples))
            yield ready.put(None)

    def _train(self) -> Generator[simpy.Event, Any, None]:
        setup, outcome, clock = self._setup, self.outcome, self._clock
        exchanged = 2 * (setup.gpus - 1) / setup.gpus * setup.gradients / setup.between_gpus
        copied = 0.0
        for step in range(1, setup.steps + 1):
            began = clock.now
            yield clock.all_of([ready.get() for ready in self._batches])
            outcome.waiting_for_data += clock.now - began
            yield clock.timeout(setup.step + exchanged)
            # The optimizer, at the end of a step, waits for the copies that were begun before it.
            late = max(copied - clock.now, 0.0)
            outcome.standing_still += late
            yield clock.timeout(late)
            if step % setup.save_steps == 0 or step == setup.steps:
                began = clock.now
                writing = self._disk.request()
                yield writing  # one is written at a time
                outcome.standing_still += clock.now - began
                copied = clock.now + (setup.tuned + setup.state) / setup.to_host
                clock.process(self._write(writing, copied, last=step == setup.steps))
        outcome.seconds = clock.now

    def _write(self, writing: Any, copied: float, *, last: bool) -> Generator[simpy.Event, Any, None]:
        yield self._clock.timeout(copied - self._clock.now)
        yield self._clock.timeout((self._setup.tuned + self._setup.state) / self._setup.disk)
        self._disk.release(writing)
        yield self._pending.put(last)

    def _upload(self) -> Generator[simpy.Event, Any, None]:
        """As ``trainer.runner`` does: the lowest step first, the training state with a pause in between."""
        clock, setup, outcome = self._clock, self._setup, self.outcome
        sent, took = 0.0, setup.state / setup.link
        last = False
        while not last:
            last = yield self._pending.get()
            outcome.most_pending = max(outcome.most_pending, 1 + len(self._pending.items))
            yield from self._send(setup.tuned)
            if not last and clock.now > sent + STATE_PAUSE * took:
                began = clock.now
                yield from self._send(setup.state)
                sent, took = clock.now, clock.now - began
                outcome.states_sent += 1
        outcome.after = clock.now - outcome.seconds

    def _send(self, size: float) -> Generator[simpy.Event, Any, None]:
        with self._link.request() as turn:
            yield turn
            yield self._clock.timeout(size / self._setup.link)


def simulate(setup: Setup, runs: int = 1, apart: float = 0.0) -> list[Outcome]:
    """``runs`` trainings that begin ``apart`` seconds from each other and share the link to the store."""
    clock = simpy.Environment()
    link = simpy.Resource(clock)
    trainings: list[Training] = []

    def begin() -> Generator[simpy.Event, Any, None]:
        for number in range(runs):
            trainings.append(Training(clock, setup, link, seed=number))
            yield clock.timeout(apart)

    clock.run(clock.process(begin()))
    for training in trainings:
        clock.run(training.uploaded)
    return [training.outcome for training in trainings]


def main() -> None:
    """Simulate, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--step", type=float, default=0.6, help="seconds of a step at batch 32 on one GPU")
    parser.add_argument("--save", action="store_true", help="keep the result in bench/results")
    given = parser.parse_args()
    base = Setup(step=given.step)
    sections = [
        f"Simulated: batch 32, {base.step:g} s a step, 8 cores per GPU. Nothing here ran on a GPU.",
        "## Waiting for data, % of the time\n\n" + data(base),
        "## Several GPUs\n\n" + gpus(base),
        "## Checkpoints of one run: 4.28 GB each, and 8.55 GB of training state, to a disk of 1 GB/s\n\n" + saves(base),
        "## Runs that share a store behind 10 Gbit/s, a save every 10 minutes each\n\n" + machines(base),
    ]
    report("scale", "Scale, on a simulated clock", sections, save=given.save)


def data(base: Setup) -> str:
    """The share of waiting by loading processes and by what a sample costs."""
    rows = []
    for name, sample in (("frame cache", CACHED), ("decoded each time", DECODED), ("upstream's", UPSTREAM)):
        found = [simulate(replace(base, steps=300, sample=sample, workers=w))[0] for w in (1, 2, 4, 8)]
        rows.append([name, 1000 * sample, *(100 * each.waiting_for_data / each.seconds for each in found)])
    return table(["samples", "ms of CPU", *(f"{count} loading" for count in (1, 2, 4, 8))], rows)


def gpus(base: Setup) -> str:
    """How much of N times one GPU's speed N have."""
    rows = []
    one = simulate(replace(base, steps=300))[0].seconds
    for name, speed in (("NVLink, 300 GB/s", 300e9), ("PCIe 4, 25 GB/s", 25e9)):
        found = [simulate(replace(base, steps=300, gpus=n, between_gpus=speed))[0].seconds for n in (2, 4, 8)]
        rows.append([name, *(100 * one / each for each in found)])
    return table(["between them", "2 GPUs, % of 2×", "4 GPUs, % of 4×", "8 GPUs, % of 8×"], rows)


def saves(base: Setup) -> str:
    """What saving often does to the training and to the uploads."""
    rows = []
    for link in (0.125e9, 1.25e9):
        for save_steps in (10, 20, 50, 200, 1000):
            [found] = simulate(replace(base, steps=5000, save_steps=save_steps, link=link))
            lost = 100 * found.standing_still / found.seconds
            rows.append(
                [f"{8e-9 * link:g} Gbit/s", save_steps, lost, found.most_pending, found.after, found.states_sent]
            )
    head = ["link", "save every, steps", "lost, %", "most waiting on the disk", "s after the last step", "states sent"]
    return table(head, rows)


def machines(base: Setup) -> str:
    """Many runs into one store."""
    rows = []
    for runs in (1, 10, 50, 100, 200):
        found = simulate(replace(base, steps=5000, save_steps=1000, workers=1, sample=0.0), runs, apart=600 / runs)
        after = sorted(each.after for each in found)
        pending = max(each.most_pending for each in found)
        rows.append([runs, after[len(after) // 2], after[-1], pending, sum(each.states_sent for each in found) / runs])
    head = ["runs", "s after the last step, median", "the last one", "most waiting on a disk", "states sent by each"]
    return table(head, rows)


if __name__ == "__main__":
    main()
