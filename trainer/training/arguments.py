"""What upstream's ``scripts/gr00t_finetune.py`` passes to transformers' ``Trainer``."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import torch
from transformers import TrainingArguments

from trainer.config.finetune_config import LOGGING_STEPS, FinetuneConfig
from trainer.forecast import AHEAD_BYTES
from trainer.training.devices import under_torchrun

SEED = 42
"""Upstream's constant; no version of its command line changes it."""

_EXCHANGE_SECONDS = 1800
"""How long a rank waits for the others; torch's own."""
_EXCHANGE_SECONDS_OF_NODES = 4 * 3600
"""The same where there are several machines: one may have every video to decode that the others have decoded before. A
machine that is lost is noticed in half a minute (``trainer.training.node_watch``)."""

log = logging.getLogger(__name__)


def training_arguments(config: FinetuneConfig, output_dir: Path, sample_bytes: int = 0) -> TrainingArguments:
    """The ``TrainingArguments`` of ``config``, as upstream's script for its generation builds them.

    ``sample_bytes`` is how much a loaded sample holds (``TrainingDataset.sample_bytes``).

    Differences from upstream, each without effect on what is learned: bf16 and tf32 only where a GPU has them (upstream
    can't start without one), fewer batches loaded ahead where they would take more than ``AHEAD_BYTES``, pinned memory
    on a GPU only, no prefetch factor without workers (upstream fails), a loss that is not a number is shown
    (transformers would log the mean of the others in its place), and old checkpoints are removed by ``FinetuneTrainer``
    rather than here, after the new one is complete.
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
        adam_beta1=config.generation.adam_beta1,
        adam_beta2=0.999,
        adam_epsilon=1e-8,
        max_grad_norm=1.0,
        bf16=on_gpu,
        # transformers raises where the GPU is older than Ampere.
        tf32=True if on_gpu and torch.cuda.get_device_capability() >= (8, 0) else None,
        use_cpu=not on_gpu,
        ddp_timeout=_EXCHANGE_SECONDS if config.num_nodes == 1 else _EXCHANGE_SECONDS_OF_NODES,
        ddp_backend="gloo" if under_torchrun() and not on_gpu else None,
        dataloader_num_workers=workers,
        dataloader_prefetch_factor=_prefetch_factor(config, sample_bytes) if workers else None,
        dataloader_persistent_workers=workers > 0,
        dataloader_pin_memory=on_gpu,
        accelerator_config={
            "non_blocking": on_gpu,
            # Gradients that wait for the last micro-batch would be whole ones, in each process.
            "gradient_accumulation_kwargs": {"sync_each_batch": True} if config.fsdp else None,
        },
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


def _prefetch_factor(config: FinetuneConfig, sample_bytes: int) -> int:
    """``config.dataloader_prefetch_factor``, or as much of it as ``AHEAD_BYTES`` leaves room for, and at least 1."""
    wanted, each = config.dataloader_prefetch_factor, config.dataloader_num_workers * config.batch_size * sample_bytes
    factor = min(wanted, max(AHEAD_BYTES // max(each, 1), 1))
    if factor < wanted:
        log.warning(
            "--dataloader-prefetch-factor %d is lowered to %d: %.1f GB of frames would be loaded ahead.",
            *(wanted, factor, wanted * each / 1e9),
        )
    return factor
