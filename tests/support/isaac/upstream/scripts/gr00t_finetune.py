"""Stands in for upstream's script of this name: its command line, what it prints, what it leaves, how it ends.

No model is trained. The weights of the base model move a little each step and are saved in upstream's layout, so that
whatever reads a checkpoint can read these. It hangs before step ``STANDIN_HANGS_AT``, for a test to stop it there.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import List, Literal  # noqa: UP035 - as upstream, for Python 3.10 and tyro

import tyro
from gr00t.standin import (  # pyrefly: ignore[missing-import] - beside this script where it runs
    DATA_CONFIGS,
    Weights,
    checkpoints,
    metadata,
    train,
    wandb_starts,
)


@dataclass
class ArgsConfig:
    """The arguments, with the defaults of branch n1.5-release."""

    dataset_path: List[str]  # noqa: UP006
    output_dir: str = "/tmp/gr00t"
    data_config: str = "fourier_gr1_arms_only"
    batch_size: int = 32
    max_steps: int = 10000
    num_gpus: int = 1
    save_steps: int = 3000
    base_model_path: str = "nvidia/GR00T-N1.5-3B"
    tune_llm: bool = False
    tune_visual: bool = False
    tune_projector: bool = True
    tune_diffusion_model: bool = True
    resume: bool = False
    learning_rate: float = 1e-4
    weight_decay: float = 1e-5
    warmup_ratio: float = 0.05
    lora_rank: int = 0
    lora_alpha: int = 16
    lora_dropout: float = 0.1
    lora_full_model: bool = False
    dataloader_num_workers: int = 12
    gradient_accumulation_steps: int = 1
    dataloader_prefetch_factor: int = 4
    report_to: Literal["wandb", "tensorboard", "azure_ml"] = "wandb"
    embodiment_tag: Literal["gr1", "oxe_droid", "agibot_genie1", "new_embodiment"] = "new_embodiment"
    video_backend: Literal["torchcodec", "decord", "torchvision_av"] = "torchcodec"
    balance_dataset_weights: bool = True
    balance_trajectory_weights: bool = True


def main(config: ArgsConfig) -> None:
    print("\n" + "=" * 50)
    print("GR00T FINE-TUNING CONFIGURATION:")
    for key, value in vars(config).items():
        print(f"{key}: {value}")
    if config.data_config not in DATA_CONFIGS:
        raise ValueError(f"Invalid data_config '{config.data_config}'")
    if config.num_gpus == 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = "0"
    if config.dataloader_num_workers == 0:
        raise ValueError(
            "--dataloader_prefetch_factor can only be set when data is loaded in a different process, i.e. when "
            "--dataloader_num_workers > 1."
        )
    output_dir = Path(config.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    (output_dir / "runs").mkdir(exist_ok=True)
    (output_dir / "experiment_cfg").mkdir(exist_ok=True)
    document = metadata(Path(config.dataset_path[0]), config.embodiment_tag)
    (output_dir / "experiment_cfg" / "metadata.json").write_text(json.dumps(document, indent=4))
    step, history, source = 0, [], Path(config.base_model_path)
    if config.resume:
        if not checkpoints(output_dir):
            raise ValueError(f"No valid checkpoint found in output directory ({output_dir})")
        source = output_dir / f"checkpoint-{checkpoints(output_dir)[-1]}"
        state = json.loads((source / "trainer_state.json").read_text())
        step, history = state["global_step"], state["log_history"]
    print("Loading checkpoint shards: 100%|██████████| 2/2 [00:00<00:00, 10.00it/s]", file=sys.stderr)
    weights = Weights(source)
    if config.report_to == "wandb":
        wandb_starts(output_dir)
    train(config, weights, output_dir, step, history)


if __name__ == "__main__":
    main(tyro.cli(ArgsConfig))
