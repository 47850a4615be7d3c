"""``python -m bench.n17``: GR00T N1.7's data path, training step and policy, beside upstream's real code in one run.

Upstream's side runs where ``--upstream-python`` and ``--upstream-checkout`` name an environment and a checkout
(``bench/upstream_n17/environment.py`` says which); without them ours is measured alone. All are processes with one
torch thread and without loader processes, which take turns. CPU time is the steadier measure on a machine that others
use.
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

import torch

from bench.contest import Contestant, Turn, times_faster
from bench.models_n17 import for_training, for_upstream, make_base_model
from bench.n17_contestant import JITTER, TAG, data_config, training_data
from bench.serve import COMPARED, compared, contest, observation_of
from bench.step import OURS, UPSTREAM, Loop, losses, speed
from bench.table import report, table
from bench.upstream_chunks import Upstream
from trainer.data.modality_config import to_upstream
from trainer.data.synthetic import make_synthetic
from trainer.gr00t.policy import Policy

DEMO = Path(__file__).resolve().parents[2] / "shared" / "demo_data" / "robot_sim.PickNPlace"
BATCH = 8
FIRST_GOAL, WARM_GOAL, STEP_GOAL = 10, 1, 4
SAMPLES = 512
"""Per warm turn."""
THERE = Path(__file__).parent / "upstream_n17"


class Place:
    """What a run needs: a dataset that may be written to, a base model for each side, and how upstream is started."""

    def __init__(self, given: argparse.Namespace, work: Path, *, small: bool) -> None:
        self.given, self.work = given, work
        work.mkdir()
        self.dataset = copy_of(given.dataset, work / "dataset")
        self.base_model = make_base_model(work / "base-model", small=small)
        data = training_data(self.dataset, self.base_model, work / "none")
        self.frames, self.samples = data.meta.total_frames, len(data)
        self.modality = work / "modality.json"
        self.modality.write_text(json.dumps(to_upstream(data_config())))
        for_training(self.base_model, data_config(), TAG, data)
        self.upstream_model = for_upstream(self.base_model, work / "upstream")
        del data

    @property
    def environ(self) -> dict[str, str]:
        """Of upstream's processes."""
        libraries = {"LD_LIBRARY_PATH": self.given.upstream_libraries} if self.given.upstream_libraries else {}
        return {"CUDA_VISIBLE_DEVICES": "", "NO_ALBUMENTATIONS_UPDATE": "1", "HF_HUB_OFFLINE": "1", **libraries}

    def upstream(self, script: str, *more: object) -> list[str]:
        """The command of one of upstream's processes."""
        own = ["--checkout", self.given.upstream_checkout.absolute(), "--dataset", self.dataset]
        own += ["--base-model", self.upstream_model, "--modality-config", self.modality]
        command = [self.given.upstream_python.absolute(), THERE / script, *own, *more]
        return [str(part) for part in command]


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, help="a dataset with the demo data's keys; by default the demo data")
    parser.add_argument("--only", choices=["data", "step", "serve"], nargs="+", default=["data", "step", "serve"])
    parser.add_argument("--model", choices=["small", "tiny"], nargs="+", default=["small", "tiny"], help="of the step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--passes", type=int, default=3, help="first passes over the data")
    parser.add_argument("--steps", type=int, default=24, help="samples of a turn of the training")
    parser.add_argument("--chunks", type=int, default=100)
    parser.add_argument("--upstream-python", type=Path)
    parser.add_argument("--upstream-checkout", type=Path, help="a folder with gr00t/ of Isaac-GR00T at 626af89")
    parser.add_argument("--upstream-libraries", default="", help="folders of FFmpeg's libraries, for torchcodec")
    parser.add_argument("--save", action="store_true", help="write bench/results/<date>-n17.md")
    given = parser.parse_args()
    torch.set_num_threads(1)
    sections = []
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        os.environ["PIPPA_HOME"] = str(work / "home")
        given.dataset = given.dataset or (DEMO if DEMO.is_dir() else make_synthetic(work / "synthetic"))
        small = Place(given, work / "small", small=True)
        tiny = Place(given, work / "tiny", small=False) if set(given.only) & {"step", "serve"} else small
        if "data" in given.only:
            sections += data(small)
        if "step" in given.only and "small" in given.model:
            sections += step(small, "small: the published vocabulary, widths at the robot's side and dropout")
        if "step" in given.only and "tiny" in given.model:
            sections += step(tiny, "tiny, the base model of smoke-n17: a vocabulary of 287 tokens")
        if "serve" in given.only:
            sections += chunk(tiny)
    report("n17", "GR00T N1.7", sections, save=given.save)


def copy_of(dataset: Path, to: Path) -> Path:
    """A copy that upstream can write its statistics into; the files themselves may be read-only."""
    for file in dataset.rglob("*"):
        if file.is_file():
            target = to / file.relative_to(dataset)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    return to


def data(place: Place) -> list[str]:
    """First pass and warm passes, without and with colour jitter."""
    found = [
        f"## Data path\n\n{place.samples} samples of {place.frames} frames, batches of {BATCH}. CPU time, medians of "
        f"{place.given.passes} first passes and {place.given.rounds} warm turns, in which all take their turns. "
        "A first pass of upstream's decodes and processes every shard and collates it; then all shards are in its "
        "memory, of which it keeps two at a time: it processes a shard again each time that it comes back. Ours "
        "draws new augmentations in every pass."
    ]
    for name, jitter in (("no colour jitter, as by default", None), ("colour jitter of finetune.sh", JITTER)):
        with ExitStack() as stack:
            found += [f"### {name.capitalize()}", *_data(place, stack, jitter)]
    return found


def _data(place: Place, stack: ExitStack, jitter: dict[str, float] | None) -> list[str]:
    with_jitter = ["--jitter", json.dumps(jitter)] if jitter else []
    where = ["--dataset", place.dataset, "--base-model", place.base_model, "--work", place.work]
    ours = stack.enter_context(Contestant("ours", [sys.executable, "-m", "bench.n17_contestant", *where, *with_jitter]))
    theirs = None
    if place.given.upstream_python:
        command = place.upstream("data.py", "--output", place.work / "upstream-data", *with_jitter)
        theirs = stack.enter_context(Contestant("upstream", command, place.environ))
    filling: list[Turn] = []
    first: dict[str, list[Turn]] = {"ours": [], "upstream": []}
    warm: dict[str, list[Turn]] = {"ours": [], "upstream": []}
    for seed in range(place.given.passes):
        filling.append(ours.turn(place.frames, seed, cold=True))
        first["ours"].append(ours.turn(place.samples, seed))
        if theirs:
            first["upstream"].append(theirs.turn(place.samples, seed, cold=True))
    for seed in range(place.given.rounds):
        warm["ours"].append(ours.turn(SAMPLES, 100 + seed))
        if theirs:
            warm["upstream"].append(theirs.turn(SAMPLES, 100 + seed))
    both = [
        Turn(pass_.samples, a.seconds + pass_.seconds, a.cpu_seconds + pass_.cpu_seconds, *pass_[3:])
        for a, pass_ in zip(filling, first["ours"], strict=True)
    ]
    rows = [
        ("upstream, first pass", first["upstream"]),
        ("upstream, from its memory", warm["upstream"]),
        ("ours, first pass, cache filled before", first["ours"]),
        ("ours, first pass with the filling of the cache", both),
        ("ours, later passes", warm["ours"]),
        ("ours, filling the cache (frames)", filling),
    ]
    sections = [
        table(
            ["", "samples per CPU-s", "ms CPU a sample", "samples/s", "private memory, MB"],
            [_row(name, turns) for name, turns in rows if turns],
        )
    ]
    if theirs:
        ratios = [
            ("our first pass by its first pass", times_faster(first["ours"], first["upstream"]), FIRST_GOAL),
            ("with the filling of the cache", times_faster(both, first["upstream"]), "–"),
            ("our later passes by its memory", times_faster(warm["ours"], warm["upstream"]), WARM_GOAL),
        ]
        cells = [[name, cpu, wall, goal] for name, (wall, cpu), goal in ratios]
        sections.append(table(["times", "CPU time", "time", "goal"], cells))
    return sections


def _row(name: str, turns: list[Turn]) -> list[object]:
    cpu = median(turn.cpu_rate for turn in turns)
    memory = max(turn.anonymous_mb for turn in turns)
    return [name, cpu, 1e3 / cpu, median(turn.rate for turn in turns), f"{memory:.0f}"]


def step(place: Place, name: str) -> list[str]:
    """Forward, backward, AdamW and the loading of the batch, with both loops."""
    sections = [
        f"## Training step, model {name}\n\nUpstream's samples were processed before and lie in its memory; ours come "
        f"from the cache. Goal: {STEP_GOAL} times its steps per second of CPU time."
    ]
    for batch in (1, 8):
        folder = place.work / f"batch-{batch}"
        folder.mkdir()
        flags = ["--dataset", str(place.dataset), "--base-model", str(place.base_model), "--batch", str(batch)]
        own = [sys.executable, "-m", "bench.loops.ours", "--n17", *flags, "--output", str(folder / "ours")]
        loops = [Loop(OURS, own, folder / "ours.log")]
        if place.given.upstream_python:
            os.environ["HF_HUB_OFFLINE"] = "1"
            command = place.upstream("loop.py", "--batch", batch, "--output", folder / "upstream")
            loops.append(Loop(UPSTREAM, command, folder / "upstream.log", place.given.upstream_libraries))
        steps = max(place.given.steps // batch, 2)
        for loop in loops:
            loop.warm_up = loop.train(steps)
        for _ in range(place.given.rounds):
            for loop in loops:
                loop.turns.append(loop.train(steps))
        for loop in loops:
            loop.end()
        trained = ", ".join(f"{loop.name} {loop.ready['trained']:,} of {loop.ready['parameters']:,}" for loop in loops)
        sections += [
            f"### Batch {batch}: {place.given.rounds} turns of {steps} steps",
            speed(loops, steps),
            f"Parameters trained: {trained}.",
            losses(loops),
        ]
    return sections


def chunk(place: Place) -> list[str]:
    """A chunk of actions: ours from the bytes of a request to those of its answer, upstream's from arrays to arrays."""
    policy = Policy(place.base_model, embodiment_tag=TAG, device="cpu")
    with ExitStack() as stack:
        theirs = None
        if place.given.upstream_python:
            where = (place.given.upstream_python, place.given.upstream_checkout, place.upstream_model, place.work)
            theirs = stack.enter_context(Upstream("n1.7", *where, observation_of(policy)))
        return [
            f"## A chunk of actions, model tiny\n\n{COMPARED.format(chunks=place.given.chunks)}",
            compared(contest(policy, theirs, place.given.chunks)),
        ]


if __name__ == "__main__":
    main()
