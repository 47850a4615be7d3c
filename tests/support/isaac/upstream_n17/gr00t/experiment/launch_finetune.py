"""Stands in for upstream's script of this name: its command line, what it prints, what it leaves, how it ends.

No model is trained, as in the stand-in of N1.5's script. What it writes beside the data is written, and what lies in
its output folder is continued.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro
from gr00t.configs.data.embodiment_configs import MODALITY_CONFIGS  # pyrefly: ignore[missing-import] - where it runs
from gr00t.data.embodiment_tags import EmbodimentTag  # pyrefly: ignore[missing-import]
from gr00t.standin import Weights, checkpoints, train, wandb_starts  # pyrefly: ignore[missing-import]

PROCESSOR = ("processor_config.json", "statistics.json", "embodiment_id.json")


@dataclass
class FinetuneConfig:
    """The arguments, with the defaults of commit 626af89."""

    base_model_path: str
    dataset_path: str
    embodiment_tag: str
    modality_config_path: str | None = None
    tune_llm: bool = False
    tune_visual: bool = False
    tune_projector: bool = True
    tune_diffusion_model: bool = True
    state_dropout_prob: float = 0.2
    random_rotation_angle: int | None = None
    color_jitter_params: dict[str, float] | None = None
    extra_augmentation_config: str | None = None
    global_batch_size: int = 64
    dataloader_num_workers: int = 2
    learning_rate: float = 1e-4
    gradient_accumulation_steps: int = 1
    output_dir: str = "./outputs"
    experiment_name: str | None = None
    wandb_project: str = "finetune-gr00t-n1d7"
    save_steps: int = 1000
    save_total_limit: int = 5
    num_gpus: int = 1
    use_wandb: bool = False
    max_steps: int = 10000
    weight_decay: float = 1e-5
    warmup_ratio: float = 0.05
    shard_size: int = 2**10
    episode_sampling_rate: float = 0.1
    num_shards_per_epoch: int = int(1e5)
    save_only_model: bool = False
    skip_weight_loading: bool = False


def load_modality_config(path: Path) -> None:
    if not path.exists() or path.suffix != ".py":
        raise FileNotFoundError(f"Modality config path does not exist: {path}")
    sys.path.append(str(path.parent))
    importlib.import_module(path.stem)
    print(f"Loaded modality config: {path}")


def write_statistics(dataset: Path, config: dict) -> None:
    """Beside the data; those of relative actions are taken as they lie there."""
    file = dataset / "meta" / "relative_stats.json"
    if not file.exists():
        action = config["action"]
        relative = [each.rep.name == "RELATIVE" for each in action.action_configs]
        file.write_text(json.dumps({k: {} for k, is_ in zip(action.modality_keys, relative, strict=True) if is_}))


def main(config: FinetuneConfig) -> None:
    tag = EmbodimentTag.resolve(config.embodiment_tag).value
    if config.modality_config_path is not None:
        load_modality_config(Path(config.modality_config_path))
    if len(os.environ.get("CUDA_VISIBLE_DEVICES", "0,1").split(",")) > 1:
        raise StopIteration  # of DataParallel
    for dataset in config.dataset_path.split(os.pathsep):
        write_statistics(Path(dataset), MODALITY_CONFIGS[tag])
    output_dir, base_model = Path(config.output_dir), Path(config.base_model_path)
    for name in ("experiment_cfg", "processor"):
        (output_dir / name).mkdir(parents=True, exist_ok=True)
    (output_dir / "experiment_cfg" / "conf.yaml").write_text(f"max_steps: {config.max_steps}\n")
    for name in PROCESSOR:
        shutil.copy(base_model / name, output_dir / "processor" / name)
    step, history, source = 0, [], base_model
    if there := checkpoints(output_dir):
        source = output_dir / f"checkpoint-{there[-1]}"
        state = json.loads((source / "trainer_state.json").read_text())
        step, history = state["global_step"], state["log_history"]
        print(f"Resuming from {source}")
    print("Loading checkpoint shards: 100%|██████████| 2/2 [00:00<00:00, 10.00it/s]", file=sys.stderr)
    weights = Weights(source)
    if config.use_wandb:
        wandb_starts(output_dir)
    train(config, weights, output_dir, step, history)


if __name__ == "__main__":
    main(tyro.cli(FinetuneConfig))
