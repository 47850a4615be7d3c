"""Stands in for upstream's script of this name: its command line, what it prints, what it leaves, how it ends.

No model is trained. The weights of the base model move a little each step and are saved in upstream's layout, so that
whatever reads a checkpoint can read these. It hangs before step ``STANDIN_HANGS_AT``, for a test to stop it there.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import List, Literal  # noqa: UP035 - as upstream, for Python 3.10 and tyro

import numpy as np
import tyro
from gr00t.standin import DATA_CONFIGS, Weights, metadata  # pyrefly: ignore[missing-import] - beside this script where it runs

KEPT = 5


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


def wandb_starts(output_dir: Path) -> None:
    """As Hugging Face's callback: needs a key unless offline, and names the run after the whole output path."""
    mode = os.environ.get("WANDB_MODE", "online")
    if mode == "offline":
        name = f"offline-run-{time.strftime('%Y%m%d_%H%M%S')}-{os.environ.get('WANDB_RUN_ID', 'random')}"
        folder = Path(os.environ.get("WANDB_DIR", ".")) / "wandb" / name
        folder.mkdir(parents=True)
        (folder / f"run-{os.environ.get('WANDB_RUN_ID', 'random')}.wandb").write_bytes(f"{output_dir}".encode())
    elif mode != "disabled" and not os.environ.get("WANDB_API_KEY"):
        raise RuntimeError("api_key not configured (no-tty). call wandb.login(key=[your_api_key])")


def checkpoints(output_dir: Path) -> list[int]:
    return sorted(int(path.name.rpartition("-")[2]) for path in output_dir.glob("checkpoint-*"))


def save(folder: Path, config: ArgsConfig, weights: Weights, step: int, history: list[dict]) -> None:
    """In place, file by file, as upstream does; a reader may see half of it."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(config.base_model_path) / "config.json", folder / "config.json")
    weights.save(folder)
    state = {"global_step": step, "max_steps": config.max_steps, "log_history": history}
    (folder / "trainer_state.json").write_text(json.dumps(state, indent=2))


def save_checkpoint(output_dir: Path, config: ArgsConfig, weights: Weights, step: int, history: list[dict]) -> None:
    folder = output_dir / f"checkpoint-{step}"
    save(folder, config, weights, step, history)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("archive/data.pkl", f"{name} at {step}".encode() * 100)
    (folder / "scheduler.pt").write_bytes(b"scheduler")
    (folder / "rng_state.pth").write_bytes(b"random state")
    shutil.copytree(output_dir / "experiment_cfg", folder / "experiment_cfg", dirs_exist_ok=True)
    for old in checkpoints(output_dir)[:-KEPT]:
        shutil.rmtree(output_dir / f"checkpoint-{old}")


def bar(step: int, config: ArgsConfig, started: float) -> None:
    done = step / config.max_steps
    seconds = int(time.monotonic() - started)
    sys.stderr.write(
        f"\r{done:4.0%}|{'█' * int(done * 10):<10}| {step}/{config.max_steps} "
        f"[{seconds // 60:02d}:{seconds % 60:02d}<00:10, {1.9:5.2f}it/s]"
    )
    sys.stderr.flush()


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
    generator = np.random.default_rng(42)
    started = time.monotonic()
    bar(step, config, started)
    while step < config.max_steps:
        step += 1
        time.sleep(3600 if str(step) == os.environ.get("STANDIN_HANGS_AT") else 0.01)
        bar(step, config, started)
        if step % 10 == 0:
            line = {
                "loss": round(math.exp(-3 * step / config.max_steps), 4),
                "grad_norm": 1.25,
                "learning_rate": config.learning_rate * (1 - step / config.max_steps),
                "epoch": round(step / 66, 2),
            }
            history.append({**line, "step": step})
            print(line, flush=True)
        if step % config.save_steps == 0 or step == config.max_steps:
            weights.nudge("action_head.", generator)
            save_checkpoint(output_dir, config, weights, step, history)
    seconds = time.monotonic() - started
    print({"train_runtime": round(seconds, 4), "train_loss": 0.3, "epoch": round(step / 66, 2)})
    save(output_dir, config, weights, step, history)
    (output_dir / "training_args.bin").write_bytes(b"arguments")


if __name__ == "__main__":
    main(tyro.cli(ArgsConfig))
