"""What checkpoints cost a training: ``uv run python -m bench.checkpoints``.

Trains with the native engine, saving every so many steps, once with the writing in the background and once waiting for
it, in turns. Lost is the time the training stands still while a checkpoint is taken, and what the steps take longer
while it is written. Then the checkpoints of a run go into a real object store, and what that is sent is added up.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

from bench.loops.timed import Timed
from bench.table import report, table
from trainer.config.presets import get_preset
from trainer.config.run_spec import SnapshotRef
from trainer.data.synthetic import make_synthetic
from trainer.events import CheckpointEvent, Event
from trainer.gr00t.n15.config import GR00TN15Config, read_config
from trainer.gr00t.n15.model import GR00TN15
from trainer.gr00t.n15.tiny import make_tiny_base_model
from trainer.gr00t.weights import save_checkpoint
from trainer.runner import checkpoint_folder
from trainer.runner.checkpoint_uploader import Uploader, failure
from trainer.runner.run_spec_builder import new_spec
from trainer.store.folder import FolderStore
from trainer.store.manifest import BLOBS
from trainer.store.resume_points import is_training_state
from trainer.training import n15

EVERY = 50
BAR = 2.0


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[128, 1024], help="of the action head; tiny has 128")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 1], help="batch size for each width")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--save-steps", type=int, default=20, help=f"the loss is told for one save per {EVERY} steps")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true", help="keep the result in bench/results")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        os.environ["PIPPA_HOME"] = str(work / "home")
        dataset = make_synthetic(work / "dataset", episodes=1)
        rows, bytes_rows = [], []
        for width, batch in zip(given.widths, given.batches, strict=True):
            model = f"{width}-{batch}"
            base = base_model(work / f"base-{model}", width)
            turns: dict[bool, list[tuple[float, float, float, float]]] = {False: [], True: []}
            for turn in range(given.rounds):
                for wait in (turn % 2 == 0, turn % 2 == 1):
                    out = work / f"{model}-{turn}-{wait}"
                    turns[wait].append(train(given, base, dataset, out, batch, wait=wait))
            for wait, measured in turns.items():
                step, stood, cpu, slower = (median(each[i] for each in measured) for i in range(4))
                lost = 100 * (stood + slower) / (EVERY * step)
                how = "waiting for the disk" if wait else "in the background"
                verdict = "" if wait else "met" if lost < BAR else f"above {BAR:g} %"
                times = [each * 1e3 for each in (step, stood, cpu, slower)]
                rows.append([parameters(base), batch, how, *times, lost, verdict])
            bytes_rows.append([parameters(base), *sent(work / f"{model}-0-False", work / f"store-{model}")])
    report(
        "checkpoints",
        f"Training time lost to checkpoints at one save per {EVERY} steps",
        [
            table(
                [
                    "tuned",
                    "batch",
                    "writing",
                    "step, ms",
                    "stands still, ms a save",
                    "of it CPU",
                    "slower steps, ms a save",
                    "lost, %",
                    "bar",
                ],
                rows,
            ),
            table(
                [
                    "tuned",
                    "checkpoints",
                    "whole, MB",
                    "tuned part, MB",
                    "sent for them, MB",
                    "bar, MB",
                    "",
                    "state, MB",
                ],
                bytes_rows,
            ),
            f"Medians of {given.rounds} runs of {given.steps} steps, in turns; one torch thread; load average "
            f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.",
        ],
        save=given.save,
    )


def train(
    given: argparse.Namespace, base: Path, dataset: Path, out: Path, batch: int, *, wait: bool
) -> tuple[float, float, float, float]:
    """Seconds of a step with nothing written beside it; per save, of standing still, its CPU part, and slower steps."""
    from trainer import finetune

    Timed.wait = wait
    Timed.forget()
    plain, n15.FinetuneTrainer = n15.FinetuneTrainer, Timed  # pyrefly: ignore
    torch.set_num_threads(1)
    flags = {
        "--dataset-path": dataset,
        "--base-model-path": base,
        "--output-dir": out,
        "--batch-size": batch,
        "--max-steps": given.steps,
        "--save-steps": given.save_steps,
        "--dataloader-num-workers": 0,
        "--report-to": "tensorboard",
    }
    try:
        finetune.main([str(part) for pair in flags.items() for part in pair])
    finally:
        n15.FinetuneTrainer = plain  # pyrefly: ignore
    starts = Timed.begun[5:]
    # The last step before a save contains it.
    steps = [
        (later - start, writing)
        for number, ((start, writing), (later, _)) in enumerate(pairwise(starts), 6)
        if number % given.save_steps
    ]
    quiet = [seconds for seconds, writing in steps if not writing]
    busy = [seconds for seconds, writing in steps if writing]
    saves = len(Timed.stood)
    step = median(quiet or busy)
    slower = max(mean(busy) - mean(quiet), 0) * len(busy) / saves if busy and quiet else 0.0
    return step, median(clock for clock, _ in Timed.stood), median(cpu for _, cpu in Timed.stood), slower


def base_model(folder: Path, width: int) -> Path:
    """The tiny base model with an action head of another width."""
    make_tiny_base_model(folder)
    config = read_config(folder)
    head: dict[str, Any] = config.action_head_cfg  # pyrefly: ignore
    head["hidden_size"] = head["diffusion_model_cfg"]["output_dim"] = width
    torch.manual_seed(0)
    model = GR00TN15(GR00TN15Config(**config.to_dict()))
    for old in folder.glob("*.safetensors"):
        old.unlink()
    model.set_trainable(False, False, True, True)
    save_checkpoint(model, folder)
    return folder


def parameters(base: Path) -> str:
    """How many are tuned of how many."""
    model = GR00TN15.from_pretrained(base, tune_llm=False, tune_visual=False)
    counts = [(each.numel(), each.requires_grad) for each in model.parameters()]
    return f"{sum(n for n, tuned in counts if tuned) / 1e6:.1f} of {sum(n for n, _ in counts) / 1e6:.1f} M"


def sent(out: Path, folder: Path) -> list[object]:
    """What an object store is sent for the checkpoints of ``out``, beside the bar: the model and the tuned parts."""
    checkpoints = checkpoint_folder.checkpoints(out)
    *_, before, last = checkpoints.values()
    files = [path for path in last.rglob("*") if path.is_file()]
    state = {path for path in files if is_training_state(path.name)}
    whole = sum(path.stat().st_size for path in files if path not in state)
    weights = [path for path in files if path.suffix == ".safetensors"]
    tuned = sum(path.stat().st_size for path in weights if not path.samefile(before / path.name))
    preset = get_preset("smoke")
    ref = SnapshotRef(kind="model", name="bench", digest="0" * 64)
    spec = new_spec(preset, preset.config, {}, [ref], ref)
    events: list[Event] = []
    store = FolderStore(folder)
    store.create()
    uploader = Uploader(store, spec, out, events.append, atomic=True)
    uploader.start()
    if not uploader.finish(resumable=True):
        raise failure(uploader, spec.run_id)
    everything = sum(found.size for found in store.list(BLOBS))
    registered = sum(event.bytes_uploaded for event in events if isinstance(event, CheckpointEvent))
    bar = whole + len(checkpoints) * tuned * 1.05
    verdict = "met" if registered <= bar else "missed"
    sizes = [each / 1e6 for each in (whole, tuned, registered, bar)]
    return [len(checkpoints), *sizes, verdict, (everything - registered) / 1e6]


if __name__ == "__main__":
    main()
