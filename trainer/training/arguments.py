"""What upstream's ``scripts/gr00t_finetune.py`` passes to transformers' ``Trainer``."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from transformers import TrainingArguments

from trainer.config import FinetuneConfig
from trainer.training.devices import under_torchrun

SEED = 42
"""Upstream's constant; no version of its command line changes it."""

LOGGING_STEPS = 10


def training_arguments(config: FinetuneConfig, output_dir: Path) -> TrainingArguments:
    """The ``TrainingArguments`` of ``config``, as upstream's script builds them.

    Differences from upstream, each without effect on what is learned: bf16 and tf32 only where there is a GPU (upstream
    can't start without one), pinned memory there, no prefetch factor without workers (upstream fails), a loss that is
    not a number is shown (transformers would log the mean of the others in its place), and old checkpoints are removed
    by ``FinetuneTrainer`` rather than here, after the new one is complete.
    """
    on_gpu = torch.cuda.is_available()
    workers = config.dataloader_num_workers
    return TrainingArguments(
        output_dir=str(output_dir),
        max_steps=config.max_steps,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warmup_steps=math.ceil(config.max_steps * config.warmup_ratio),
        lr_scheduler_type="cosine",
        optim="adamw_torch_fused",  # upstream's adamw_torch in one pass over the parameters
        adam_beta1=0.95,
        adam_beta2=0.999,
        adam_epsilon=1e-8,
        max_grad_norm=1.0,
        bf16=on_gpu,
        tf32=True if on_gpu else None,
        use_cpu=not on_gpu,
        ddp_backend="gloo" if under_torchrun() and not on_gpu else None,
        dataloader_num_workers=workers,
        dataloader_prefetch_factor=config.dataloader_prefetch_factor if workers else None,
        dataloader_persistent_workers=workers > 0,
        dataloader_pin_memory=on_gpu,
        accelerator_config={"non_blocking": on_gpu},
        remove_unused_columns=False,
        logging_steps=LOGGING_STEPS,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=config.save_steps,
        seed=SEED,
        ddp_find_unused_parameters=False,
        ddp_bucket_cap_mb=100,
        # Our own callbacks report; report_to here would start W&B with transformers' settings, not the run's.
        report_to="none",
        disable_tqdm=True,
        log_level="warning",
    )
