"""How much of a disk a training's checkpoints will take, before the first is written."""

from __future__ import annotations

from pathlib import Path

import torch

from trainer.config.finetune_config import FinetuneConfig
from trainer.gr00t.n15.config import read_config
from trainer.gr00t.n15.model import GR00TN15
from trainer.training.checkpoints import CHECKPOINTS_KEPT


def checkpoint_bytes(base_model: Path, config: FinetuneConfig) -> tuple[int, int]:
    """Bytes of the frozen weights, written once, and what each checkpoint adds: trained weights and AdamW's moments.

    With LoRA it is an upper bound: that of training the same parts without.
    """
    with torch.device("meta"):
        model = GR00TN15(read_config(base_model))
    model.set_trainable(config.tune_llm, config.tune_visual, config.tune_projector, config.tune_diffusion_model)
    sizes = [(each.numel() * each.element_size(), each.requires_grad) for each in model.parameters()]
    return sum(size for size, trained in sizes if not trained), 3 * sum(size for size, trained in sizes if trained)


def room_for_checkpoints(base_model: Path, config: FinetuneConfig, output_dir: Path, beside: Path) -> int:
    """Bytes that the checkpoints in ``output_dir`` will take beyond those they take now, at the most; 0 where they are
    on another disk than the folder ``beside``.

    That is ``CHECKPOINTS_KEPT`` of them and the one that is written before the oldest is removed.
    """
    if output_dir.stat().st_dev != beside.stat().st_dev:
        return 0
    frozen, added = checkpoint_bytes(base_model, config)
    saves = -(-config.max_steps // config.save_steps)
    files = (file.stat() for file in output_dir.rglob("*") if file.is_file())
    there = sum({file.st_ino: file.st_size for file in files}.values())  # links once
    return max(frozen + min(saves, CHECKPOINTS_KEPT + 1) * added - there, 0)
