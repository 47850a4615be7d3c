"""``python -m bench.step``: our training step beside upstream's, on a CPU, taking turns in one run.

The model has GR00T N1.5's architecture and its whole vocabulary, 256 tokens per image, the real width at the robot's
side, and small sizes elsewhere (``bench.models``). Each loop is a separate process with one thread and without loader
processes; they train the same number of steps in turns, so that whatever else the machine does hits all of them. CPU
time is the steadier measure on a machine that others use.

Compared with: upstream's loop itself (``bench.loops.upstream``) where ``--upstream-python`` and ``--upstream-checkout``
name an environment with what its pyproject.toml pins and a checkout with ``gr00t/`` in it; and upstream's way of
driving a model, with ours (``bench.loops.upstream_way``), which needs neither.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.models import make_small_base_model
from bench.table import report, table

OURS, WAY, UPSTREAM = "ours", "upstream's way, our model", "upstream"


class Loop:
    """A training loop in a separate process, stopped before each of its turns."""

    def __init__(self, name: str, command: list[str], log: Path, path: str = "") -> None:
        self.name = name
        self.turns: list[dict[str, Any]] = []
        environ = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "NO_ALBUMENTATIONS_UPDATE": "1"}
        if path:
            environ["LD_LIBRARY_PATH"] = path
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log.open("w"), text=True, env=environ
        )
        self._log = log
        self.ready = self._answer()

    def train(self, steps: int) -> dict[str, Any]:
        """Train ``steps`` steps and return what they took."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"steps": steps}) + "\n")
        self._process.stdin.flush()
        took = self._answer()
        return {**took, "own_seconds": took["seconds"] - took["loading_seconds"] - took["work_seconds"]}

    def end(self) -> None:
        """End the process, and the training with it."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(60)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended:\n{self._log.read_text()[-3000:]}")
        return json.loads(line)

    def per_step(self, measure: str, steps: int) -> float:
        """Seconds per step, the median of the measured turns."""
        return statistics.median(turn[measure] / steps for turn in self.turns)

    @property
    def losses(self) -> list[float]:
        """Of every step since the start."""
        return [loss for turn in [self.warm_up, *self.turns] for loss in turn["losses"]]

    warm_up: dict[str, Any]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, help="a dataset of the demo's layout; default: a synthetic one")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--samples", type=int, default=48, help="samples of a turn: its steps are these by the batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--upstream-python", type=Path)
    parser.add_argument("--upstream-checkout", type=Path)
    parser.add_argument("--upstream-libraries", default="", help="folders of FFmpeg's libraries, for torchcodec")
    parser.add_argument("--video-backend", default="torchcodec", help="upstream's")
    parser.add_argument("--save", action="store_true", help="write bench/results/<date>-step.md")
    given = parser.parse_args()
    sections = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dataset = given.dataset or make_dataset(folder / "dataset")
        for batch in given.batch:
            loops = start(given, folder / str(batch), dataset.absolute(), batch)
            steps = max(given.samples // batch, 2)
            for loop in loops:
                loop.warm_up = loop.train(steps)
            for _ in range(given.rounds):
                for loop in loops:
                    loop.turns.append(loop.train(steps))
            for loop in loops:
                loop.end()
            sections += [f"## Batch {batch}: {given.rounds} turns of {steps} steps", speed(loops, steps), losses(loops)]
    report("step", "Training step", sections, save=given.save)


def make_dataset(path: Path) -> Path:
    """A synthetic dataset of the demo's layout."""
    from trainer.data.synthetic import make_synthetic

    return make_synthetic(path)


def start(given: argparse.Namespace, folder: Path, dataset: Path, batch: int) -> list[Loop]:
    """The loops to compare, each at its first step."""
    real = given.upstream_python and given.upstream_checkout
    eagle = "gr00t/model/backbone/eagle2_hg_model"
    base_model = make_small_base_model(folder / "base", given.upstream_checkout / eagle if real else None)

    def flags(name: str, base: Path = base_model) -> list[str]:
        output = str(folder / name)
        return ["--dataset", str(dataset), "--base-model", str(base), "--output", output, "--batch", str(batch)]

    module = [sys.executable, "-m", "bench.loops.ours"]
    os.environ["PIPPA_HOME"] = str(folder.parent / "home")
    loops = [
        Loop(OURS, [*module, *flags("ours")], folder / "ours.log"),
        Loop(WAY, [*module, "--way", "upstream", *flags("way")], folder / "way.log"),
    ]
    if real:
        checkout = folder / "checkout"
        shutil.copytree(given.upstream_checkout / "gr00t", checkout / "gr00t")
        script = str(Path(__file__).parent / "loops/upstream.py")
        for_upstream = with_output_matrix(base_model, folder / "base-upstream")
        own = ["--checkout", str(checkout), "--backend", given.video_backend, *flags("upstream", for_upstream)]
        command = [str(given.upstream_python), script, *own]
        loops.append(Loop(UPSTREAM, command, folder / "upstream.log", given.upstream_libraries))
    return loops


def with_output_matrix(base_model: Path, folder: Path) -> Path:
    """``base_model`` in one file and with the output matrix, as official weights have it: upstream would make one up,
    and not tie it to the embeddings.
    """
    from safetensors.torch import load_file, save_file

    from trainer.gr00t.n15.model import EMBEDDINGS, LM_HEAD

    folder.mkdir()
    shutil.copy(base_model / "config.json", folder)
    weights = {name: tensor for file in base_model.glob("*.safetensors") for name, tensor in load_file(file).items()}
    save_file({**weights, LM_HEAD: weights[EMBEDDINGS].clone()}, folder / "model.safetensors", {"format": "pt"})
    return folder


def speed(loops: list[Loop], steps: int) -> str:
    """Steps per second and memory, and how many times ours."""
    rows = []
    for loop in loops:
        measures = ("seconds", "cpu_seconds", "loading_seconds", "work_seconds", "own_seconds")
        wall, cpu, loading, work, own_work = (loop.per_step(name, steps) for name in measures)
        ours = loops[0]
        peak = loop.turns[-1]["peak_mb"]
        own = peak - loop.ready["imported_mb"]
        ours_peak = ours.turns[-1]["peak_mb"]
        rows.append(
            [
                loop.name,
                1 / wall,
                wall / ours.per_step("seconds", steps),
                1000 * cpu,
                cpu / ours.per_step("cpu_seconds", steps),
                1000 * loading,
                1000 * work,
                1000 * own_work,
                f"{peak:.0f} ({peak / ours_peak:.2f}×)",
                f"{own:.0f} ({own / (ours_peak - ours.ready['imported_mb']):.2f}×)",
            ]
        )
    columns = ["loop", "steps/s", "× slower", "CPU ms/step", "× more"]
    parts = ["of a step: loading, ms", "work, ms", "the trainer's own, ms"]
    return table([*columns, *parts, "peak RSS, MB", "beyond the imports, MB"], rows)


def losses(loops: list[Loop]) -> str:
    """The mean loss of each quarter of the training, its standard error, and the largest difference from ours."""
    rows = []
    for loop in loops:
        quarter = len(loop.losses) // 4
        parts = [loop.losses[i * quarter : (i + 1) * quarter] for i in range(4)]
        cells = [_mean(part) for part in parts]
        pairs = zip(loop.losses, loops[0].losses, strict=True)
        apart = max(abs(one - other) for one, other in pairs)
        rows.append([loop.name, *cells, "other draws" if loop.name == UPSTREAM else f"{apart:.1e}"])
    return "Loss, mean of each quarter of the steps:\n\n" + table(
        ["loop", "1st", "2nd", "3rd", "4th", "furthest from ours in a step"], rows
    )


def _mean(values: list[float]) -> str:
    """With its standard error, where there are values enough."""
    if not values:
        return "–"
    error = f" ± {statistics.stdev(values) / len(values) ** 0.5:.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{error}"


if __name__ == "__main__":
    main()
