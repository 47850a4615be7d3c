"""How fast training samples come: ``uv run python -m bench.data``.

A sample is what training consumes: augmented, collated in batches of 8, on the device. Contestants are ours, upstream's
way rewritten (``bench/upstream_way``), Isaac-GR00T itself where ``--upstream-python`` and ``--upstream-checkout``
name it (see ``bench/upstream_way/real.py``), and limits. Each is a process with one torch thread.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from bench import beyond_cache
from bench.contest import Contestant, Turn, times_faster
from bench.table import report, table
from trainer.data.dataset_meta import DatasetMeta
from trainer.data.synthetic import make_synthetic
from trainer.gr00t.n15.tiny import make_tiny_base_model

DEMO = Path(__file__).resolve().parents[2] / "shared" / "demo_data" / "robot_sim.PickNPlace"
BARS = {"torchvision_av": 100, "torchcodec": 40}
COLD_BAR = 8
SAMPLES = {"ours": 512, "uncached": 24, "torchvision_av": 16, "torchcodec": 24, "memcpy": 4096}
"""Per turn."""


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", type=Path, help="a dataset with the demo data's keys; by default the demo data")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="keep the result in bench/results")
    parser.add_argument("--upstream-python", type=Path, help="Python of an environment Isaac-GR00T N1.5 runs in")
    parser.add_argument("--upstream-checkout", type=Path, help="folder with its package gr00t")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as work, ExitStack() as stack:
        measure(given, Path(work), stack)


def measure(given: argparse.Namespace, work: Path, stack: ExitStack) -> None:
    """All of it, with contestants that end with ``stack``."""
    dataset = given.dataset or (DEMO if DEMO.is_dir() else make_synthetic(work / "synthetic"))
    make_tiny_base_model(work / "base-model")
    where = ["--dataset", dataset, "--work", work]

    def enter(name: str, threads: int = 1) -> Contestant:
        command = [sys.executable, "-m", "bench.data_contestants", name, *where, "--threads", str(threads)]
        return stack.enter_context(Contestant(name, command))

    peers, missing = [], []
    for backend in BARS:
        try:
            peers.append((f"upstream's way, {backend}", backend, enter(backend)))
        except RuntimeError as error:
            missing.append(f"{backend}: {str(error).strip().splitlines()[-1]}")
        if given.upstream_python:
            command = [given.upstream_python, Path(__file__).parent / "upstream_way" / "real.py"]
            command += ["--checkout", given.upstream_checkout, "--dataset", dataset, "--backend", backend]
            peers.append((f"Isaac-GR00T itself, {backend}", backend, stack.enter_context(Contestant(backend, command))))
    ours, uncached, decode, memcpy = (enter(name) for name in ("ours", "uncached", "decode", "memcpy"))
    cores = len(os.sched_getaffinity(0))
    all_cores = enter("ours", cores)
    frames = DatasetMeta.load(dataset).total_frames

    cold: list[Turn] = []
    for seed in range(given.rounds):
        if seed < 2:
            cold.append(ours.turn(frames, seed, cold=True))
            decode.turn(frames, seed)
        ours.turn(SAMPLES["ours"], seed)
        all_cores.turn(SAMPLES["ours"], seed)
        for _, backend, peer in peers:
            peer.turn(SAMPLES[backend], seed)
        uncached.turn(SAMPLES["uncached"], seed)
        memcpy.turn(SAMPLES["memcpy"], seed)
    warm = [turn for turn in ours.turns if turn not in cold]
    memory = [ours.turn(frames, seed) for seed in range(10, 14)]

    rows = [
        *(_row(name, peer.turns) for name, _, peer in peers),
        _row("ours, frames cached", warm),
        _row(f"ours, frames cached, {cores} torch threads", all_cores.turns),
        _row("ours, first epoch, cache built in it", cold),
        _row("ours, no cache: decoders kept open", uncached.turns),
        _row("limit: all frames decoded in order", decode.turns),
        _row("limit: memcpy of a frame", memcpy.turns),
    ]
    head = ["", "samples/s", "best", "samples per CPU-s", "ms CPU a sample"]
    sections = [
        f"{_describe(dataset)}; config fourier_gr1_arms_only, batches of 8, one torch thread each unless it says "
        f"so. Medians of {given.rounds} rounds, in which all take their turns.",
        table(head, rows),
        table(
            ["times the samples/s of", "warm", "warm, CPU time", "bar", "first epoch", "first epoch, CPU time", "bar"],
            [_ratios(name, backend, peer.turns, warm, cold) for name, backend, peer in peers],
        ),
        table(
            ["ours, after epoch", *(str(epoch + 1) for epoch in range(len(memory)))],
            [
                ["private memory, MB", *(f"{turn.anonymous_mb:.0f}" for turn in memory)],
                ["pages of files (cache, libraries), MB", *(f"{turn.mapped_mb:.0f}" for turn in memory)],
            ],
        ),
    ]
    sections += beyond_cache.sections(work, given.rounds, stack)
    if missing:
        sections.append("Not measured: " + "; ".join(missing) + ".")
    report("data", "Data path", sections, save=given.save)


def _row(name: str, turns: list[Turn]) -> list[object]:
    cpu = median(turn.cpu_rate for turn in turns)
    rates = [turn.rate for turn in turns]
    return [name, median(rates), max(rates), cpu, 1e3 / cpu]


def _ratios(name: str, backend: str, peer: list[Turn], warm: list[Turn], cold: list[Turn]) -> list[object]:
    first = times_faster(cold, peer[: len(cold)])
    return [name, *times_faster(warm, peer), BARS[backend], *first, COLD_BAR]


def _describe(dataset: Path) -> str:
    info = json.loads((dataset / "meta/info.json").read_text())
    return f"{dataset.name}: {info['total_episodes']} episodes, {info['total_frames']} frames"


if __name__ == "__main__":
    main()
