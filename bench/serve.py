"""``python -m bench.serve``: how long a chunk of actions takes, by part, in this process's policy of each generation.

Models with random weights, ``tiny`` on a CPU, asked by the bytes of a client as ``pippa serve`` is. What is not the
model (decode, preprocess, postprocess) hardly depends on its size: ``--model-ms`` says what a chunk of the full size
takes on the GPU at hand (``pippa serve NAME --measure`` there), and the table then says which share the rest has of it.

Upstream's policies take turns with ours where ``--upstream-n15`` and ``--upstream-n17`` name the Python of an
environment and a checkout (``bench/upstream_chunks.py``); N1.5's with the bench's small model, of the real vocabulary.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.models import make_small_base_model
from bench.models_n17 import for_upstream
from bench.round_trip import round_trips
from bench.table import report, table
from bench.upstream_chunks import Upstream
from trainer.data.configs import DataConfig, Feature, get_data_config
from trainer.data.dataset_meta import DatasetMeta
from trainer.data.metadata import build_metadata, write_metadata
from trainer.data.n17 import processor_files
from trainer.data.n17.dataset import TrainingDataset
from trainer.data.n17.settings import ProcessorSettings
from trainer.data.synthetic import TASK_COLUMN, make_synthetic
from trainer.gr00t.n15 import tiny as n15
from trainer.gr00t.n17 import tiny as n17
from trainer.gr00t.n17.processor import IMAGE_SETTINGS, ImageSettings
from trainer.gr00t.policy import Policy
from trainer.serving.latency import CHUNK, CHUNKS, OURS, WARM_UP, Parts, measure, quantiles, request_of
from trainer.serving.observation import flat
from trainer.serving.wire import unpack

CONFIG = "fourier_gr1_arms_only"
TAG = "new_embodiment"
TURNS = 5
COMPARED = (
    f"{{chunks}} chunks each, in {TURNS} turns, float32, one thread. Ours is from the bytes of a request to those of "
    "its answer, upstream's `Gr00tPolicy` from arrays to arrays."
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=CHUNKS)
    parser.add_argument("--model-ms", type=float, help="the model's part of a chunk at full size")
    parser.add_argument("--save", action="store_true", help="write bench/results/<date>-serve.md")
    for generation in ("n15", "n17"):
        parser.add_argument(f"--upstream-{generation}", type=Path, nargs=2, metavar=("PYTHON", "CHECKOUT"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    beside: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["PIPPA_HOME"] = str(Path(temporary) / "home")
        policies = {"GR00T N1.5": policy_of_n15(Path(temporary)), "GR00T N1.7": policy_of_n17(Path(temporary))}
        found = {name: measure(policy, given.chunks) for name, policy in policies.items()}
        cpu = {name: measure(policy, given.chunks, time.process_time) for name, policy in policies.items()}
        between = round_trips(policies["GR00T N1.7"], given.chunks)
        for version, where in (("n1.5", given.upstream_n15), ("n1.7", given.upstream_n17)):
            if where:
                work = Path(temporary) / "beside"
                python, checkout = where
                policy, model = both_read(version, work, checkout)
                with Upstream(version, python, checkout, model, work, observation_of(policy)) as theirs:
                    beside[f"GR00T {version.upper()}"] = compared(contest(policy, theirs, given.chunks))
    sections = [f"Model `tiny`, one thread, {given.chunks} chunks each.", parts_table(found)]
    sections += ["The same by CPU time, which other work on the machine disturbs less:", parts_table(cpu)]
    if given.model_ms:
        sections.append(full_size(found, given.model_ms))
    sections += ["## The way there and back\n\nOn this machine, to a policy that answers at once:", between]
    for name, text in beside.items():
        sections += [f"## {name} beside upstream", COMPARED.format(chunks=given.chunks), text]
    report("serve", "Latency of a chunk", sections, save=given.save)


def observation_of(policy: Policy) -> dict[str, Any]:
    """What ``measure`` asks, flat with a batch axis."""
    request, _ = unpack(request_of(policy))
    return flat(request["data"]["observation"])


def both_read(version: str, work: Path, checkout: Path) -> tuple[Policy, Path]:
    """A policy, and its checkpoint in the form that upstream loads: N1.5's has upstream's tokenizer."""
    if version == "n1.7":
        policy = policy_of_n17(work)
        return policy, for_upstream(policy.checkpoint.folder, work / "upstream")
    policy = policy_of_n15(work, checkout / "gr00t/model/backbone/eagle2_hg_model")
    return policy, policy.checkpoint.folder


def contest(policy: Policy, theirs: Upstream | None, chunks: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of each chunk by whose it is, of time and of the processor; all take turns."""
    taken: dict[str, dict[str, list[float]]] = {}
    count = max(chunks // TURNS, 1)
    for _ in range(TURNS):
        clocks = {"wall": time.perf_counter, "cpu": time.process_time}
        turn = {"ours": {name: list(measure(policy, count, clock)[CHUNK]) for name, clock in clocks.items()}}
        if theirs:
            turn["upstream"] = {name: times[WARM_UP:] for name, times in theirs.chunks(count + WARM_UP).items()}
        for name, found in turn.items():
            for clock, times in found.items():
                taken.setdefault(name, {}).setdefault(clock, []).extend(times)
    return taken


def compared(taken: dict[str, dict[str, list[float]]]) -> str:
    """p50 and p99 by whose the chunks are."""
    quantile = {
        name: {clock: 1e3 * np.percentile(times, [50, 99]) for clock, times in found.items()}
        for name, found in taken.items()
    }
    ours = quantile["ours"]["cpu"][0]
    rows = [[name, *each["cpu"], *each["wall"], float(each["cpu"][0] / ours)] for name, each in quantile.items()]
    return table(["", "p50, CPU ms", "p99, CPU ms", "p50, ms", "p99, ms", "CPU time, times ours"], rows)


def parts_table(found: dict[str, Parts]) -> str:
    """p50 and p99 of each part, a pair of columns for each policy."""
    columns = ["part", *(f"{name}, {which} ms" for name in found for which in ("p50", "p99"))]
    times = {name: quantiles(parts) for name, parts in found.items()}
    parts = list(next(iter(times.values())))
    return table(columns, [[part, *(value for each in times.values() for value in each[part])] for part in parts])


def full_size(found: dict[str, Parts], model_ms: float) -> str:
    """What the parts that are not the model are of a chunk at full size."""
    lines = []
    for name, parts in found.items():
        ours = sum(quantiles({part: parts[part] for part in OURS})[part][0] for part in OURS)
        lines.append(f"{name}: {ours:.2f} ms beside {model_ms:g} ms of the model, {ours / (ours + model_ms):.1%}.")
    return "\n".join(lines)


def policy_of_n15(folder: Path, tokenizer: Path | None = None) -> Policy:
    """The tiny model of N1.5 as a checkpoint, never trained; with the official ``tokenizer`` the bench's small one."""
    dataset = _dataset(folder)
    made = make_small_base_model(folder / "n15", tokenizer) if tokenizer else n15.make_tiny_base_model(folder / "n15")
    checkpoint = Path(shutil.copytree(made, folder / "checkpoint-n15"))
    write_metadata(checkpoint / "experiment_cfg", build_metadata(DatasetMeta.load(dataset), TAG))
    return Policy(checkpoint, CONFIG, TAG, device="cpu")


def policy_of_n17(folder: Path) -> Policy:
    """The tiny model of N1.7 with the published model's images, as the same robot's."""
    checkpoint = n17.make_tiny_base_model(folder / "n17")
    files = processor_files.read(checkpoint)
    settings = files.settings.model_copy(update={"shortest_image_edge": ProcessorSettings().shortest_image_edge})
    keys = get_data_config(CONFIG).keys("action")
    config = DataConfig(
        name=TAG,
        video=("ego_view",),
        state=tuple(Feature(key) for key in keys),
        action=tuple(Feature(key, relative_to=key) for key in keys),
        language=TASK_COLUMN,
    )
    data = TrainingDataset([_dataset(folder)], config, settings, files.slot(TAG))
    replace(files, settings=settings).trained_on(TAG, config, data.statistics).save(checkpoint)
    (checkpoint / IMAGE_SETTINGS).write_text(ImageSettings().model_dump_json())
    return Policy(checkpoint, embodiment_tag=TAG, device="cpu")


def _dataset(folder: Path) -> Path:
    data = folder / "data"
    return data if data.is_dir() else make_synthetic(data, episodes=1)


if __name__ == "__main__":
    main()
