"""Our training loop, run for ``bench.step`` and ``bench.n17``: ``trainer.finetune`` with its flags, not reporting."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from bench.loops.gate import Gate
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.n17_config import N17Config
from trainer.data.n17.configs import get_data_config
from trainer.finetune import finetune
from trainer.training import finetuning
from trainer.training.finetune_trainer import FinetuneTrainer

LIBRARIES = ("av", "pyarrow.parquet", "trainer.data.transforms.kernels")
"""What brings in the libraries that are imported where they are needed; upstream imports its own to begin with."""


def main() -> None:
    """Train until stdin ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--base-model", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--way", choices=["ours", "upstream"], default="ours")
    parser.add_argument("--n17", action="store_true", help="the base model is of GR00T N1.7")
    given = parser.parse_args()
    if given.way == "upstream":
        from bench.loops.upstream_way import drive_in_upstreams_way

        drive_in_upstreams_way()
    gate = Gate(FinetuneTrainer)
    for each in LIBRARIES:
        importlib.import_module(each)
    gate.imported()
    finetuning.reporting = lambda config, output_dir, emit: []  # noqa: ARG005 - called by that name
    shared = {
        "dataset_path": [given.dataset],
        "base_model_path": str(given.base_model),
        "output_dir": str(given.output),
        "dataloader_num_workers": 0,
        "max_steps": 10_000,
        "save_steps": 10_000,
    }
    if given.n17:
        config = N17Config(**shared, data_config=get_data_config("gr1_arms_only"), global_batch_size=given.batch)
    else:
        rate = {"learning_rate": 5e-4, "weight_decay": 0.0, "warmup_ratio": 0.01}
        config = FinetuneConfig(**shared, **rate, batch_size=given.batch)
    finetune(config, lambda _: None)


if __name__ == "__main__":
    main()
