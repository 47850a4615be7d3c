"""Upstream's own pipeline for GR00T N1.7 on a CPU: what ``gr00t/experiment/launch_finetune.py`` puts together.

Runs in a separate environment: Python 3.11 with transformers 4.57.3, diffusers 0.35.1, albumentations 1.4.18, albucore
0.0.17, torchcodec (which needs FFmpeg's shared libraries), torch, torchvision, accelerate, dm-tree, einops, omegaconf,
wandb, tyro, pyzmq, msgpack-numpy; no flash-attn. The checkout is Isaac-GR00T at 626af89. Changed, because the code
needs a GPU: float32 on the CPU instead of bf16 autocast and tf32.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

TAG = "new_embodiment"


def arguments() -> argparse.ArgumentParser:
    """The flags of every child."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkout", type=Path, required=True, help="has gr00t/")
    parser.add_argument("--dataset", type=Path, required=True, help="upstream writes its statistics into it")
    parser.add_argument("--base-model", type=Path, required=True, help="its config.json names the backbone's folder")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--modality-config", type=Path, help="as processor_config.json has it")
    parser.add_argument("--jitter", type=json.loads, help="colour jitter")
    return parser


def pipeline(given: argparse.Namespace) -> Any:
    """Upstream's ``Gr00tN1d7Pipeline`` with the settings of ``launch_finetune.py``."""
    import torch

    torch.set_num_threads(1)
    sys.path.insert(0, str(given.checkout))
    from gr00t.configs.base_config import get_default_config  # type: ignore[import-not-found]
    from gr00t.configs.data.embodiment_configs import register_modality_config  # type: ignore[import-not-found]
    from gr00t.data.embodiment_tags import EmbodimentTag  # type: ignore[import-not-found]
    from gr00t.data.utils import parse_modality_configs  # type: ignore[import-not-found]
    from gr00t.model.gr00t_n1d7.setup import Gr00tN1d7Pipeline  # type: ignore[import-not-found]

    backbone = Path(json.loads((given.base_model / "config.json").read_text())["model_name"])
    make_weights(backbone)
    modality = parse_modality_configs({TAG: json.loads(given.modality_config.read_text())})[TAG]
    register_modality_config(modality, embodiment_tag=EmbodimentTag.NEW_EMBODIMENT)
    dataset = {"dataset_paths": [str(given.dataset)], "mix_ratio": 1.0, "embodiment_tag": TAG}
    config = get_default_config().load_dict({"data": {"download_cache": False, "datasets": [dataset]}})
    config.model.state_dropout_prob = 0.2
    config.model.color_jitter_params = given.jitter
    config.model.load_bf16 = False
    config.model.model_name = str(backbone)
    config.model.backbone_trainable_params_fp32 = True
    config.model.use_relative_action = True
    config.training.start_from_checkpoint = str(given.base_model)
    config.training.transformers_local_files_only = True
    config.validate()
    given.output.mkdir(parents=True, exist_ok=True)
    return Gr00tN1d7Pipeline(config, given.output)


def make_weights(backbone: Path) -> None:
    """Random weights for the backbone alone, which upstream loads before those of the checkpoint replace them."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    if not list(backbone.glob("*.safetensors")):
        Qwen3VLForConditionalGeneration(Qwen3VLConfig.from_pretrained(backbone)).save_pretrained(backbone)
