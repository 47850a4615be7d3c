"""``python -m bench.serve``: how long a chunk of actions takes, by part, in this process's policy of each generation.

Models with random weights, ``tiny`` on a CPU, asked by the bytes of a client as ``pippa serve`` is. What is not the
model (decode, preprocess, postprocess) hardly depends on its size: ``--model-ms`` says what a chunk of the full size
takes on the GPU at hand (``pippa serve NAME --measure`` there), and the table then says which share the rest has of it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from bench.table import report, table
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
from trainer.serving.latency import CHUNKS, OURS, Parts, measure, quantiles

CONFIG = "fourier_gr1_arms_only"
TAG = "new_embodiment"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=CHUNKS)
    parser.add_argument("--model-ms", type=float, help="the model's part of a chunk at full size")
    parser.add_argument("--save", action="store_true", help="write bench/results/<date>-serve.md")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["PIPPA_HOME"] = str(Path(temporary) / "home")
        policies = {"GR00T N1.5": policy_of_n15(Path(temporary)), "GR00T N1.7": policy_of_n17(Path(temporary))}
        found = {name: measure(policy, given.chunks) for name, policy in policies.items()}
    sections = [f"Model `tiny`, one thread, {given.chunks} chunks each.", parts_table(found)]
    if given.model_ms:
        sections.append(full_size(found, given.model_ms))
    report("serve", "Latency of a chunk", sections, save=given.save)


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


def policy_of_n15(folder: Path) -> Policy:
    """The tiny model of N1.5 as a checkpoint, never trained."""
    dataset = make_synthetic(folder / "data", episodes=1)
    checkpoint = Path(shutil.copytree(n15.make_tiny_base_model(folder / "n15"), folder / "checkpoint-n15"))
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
    data = TrainingDataset([folder / "data"], config, settings, files.slot(TAG))
    replace(files, settings=settings).trained_on(TAG, config, data.statistics).save(checkpoint)
    (checkpoint / IMAGE_SETTINGS).write_text(ImageSettings().model_dump_json())
    return Policy(checkpoint, embodiment_tag=TAG, device="cpu")


if __name__ == "__main__":
    main()
