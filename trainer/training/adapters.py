"""The LoRA adapters of a training, as its flags say."""

from __future__ import annotations

from pathlib import Path

from trainer.config.finetune_config import FinetuneConfig
from trainer.gr00t.lora import add_lora, load_adapter, require_lora_of
from trainer.gr00t.weights import GrootModel


def add_adapters(model: GrootModel, config: FinetuneConfig, resume_from: Path | None) -> None:
    """Give ``model`` its adapters, with the weights of the checkpoint ``resume_from``; none without ``--lora-rank``.

    Raises ``UsageError`` where that checkpoint has adapters and this training none.
    """
    if config.lora_rank:
        add_lora(
            model,
            rank=config.lora_rank,
            alpha=config.lora_alpha,
            dropout=config.lora_dropout,
            full_model=config.lora_full_model,
            train_projector=config.tune_projector and not config.upstream_exact,
        )
        if resume_from:
            load_adapter(model, resume_from)
    elif resume_from:
        require_lora_of(resume_from)
