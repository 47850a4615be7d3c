"""A training of the native engine, from the checked flags to the last checkpoint. Importing it imports torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import nn
from transformers import TrainerCallback

from trainer.config.finetune_config import FinetuneConfig
from trainer.data.checks import Checked
from trainer.data.exclusion import named_episodes
from trainer.errors import ExitCode
from trainer.events import Event, PhaseEvent, WarningEvent
from trainer.training.checkpoints import saved_by
from trainer.training.devices import check_device_count, check_gpu_usable
from trainer.training.finetune_trainer import TrainingData
from trainer.training.graceful_stop import StopOnSignal
from trainer.training.progress import EmitProgress
from trainer.training.reporting import reporting
from trainer.training.stop_signal import StopSignal


def train(
    config: FinetuneConfig,
    checked: Sequence[Checked],
    resume_from: Path | None,
    stop: StopSignal,
    emit: Callable[[Event], None],
) -> int:
    """Load data and model, train, and leave upstream's files in ``config.output_dir``. Returns the exit code.

    ``checked`` is what the check found of each dataset, ``resume_from`` the checkpoint to continue from.
    See ``trainer.finetune`` for the rest.
    """
    output_dir = Path(config.output_dir).absolute()
    output_dir.mkdir(parents=True, exist_ok=True)
    check_gpu_usable(torch.cuda.is_available(), torch.version.cuda)
    check_device_count(config.num_gpus, torch.cuda.device_count())

    def callbacks() -> list[TrainerCallback]:
        return [StopOnSignal(stop), EmitProgress(emit), *reporting(config, output_dir, emit)]

    if config.exclude_episodes:
        emit(PhaseEvent(phase="load", message=f"Left out: {named_episodes(config.exclude_episodes)}"))
    make_trainer = config.generation.module("training").make_trainer
    trainer = make_trainer(config, checked, resume_from=resume_from, callbacks=callbacks, emit=emit)
    model = cast("nn.Module", trainer.model)
    frames = len(cast("TrainingData", trainer.train_dataset))
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    total = sum(parameter.numel() for parameter in model.parameters())
    emit(
        PhaseEvent(
            phase="train",
            message=f"Training {trained / 1e6:,.1f} M of {total / 1e6:,.1f} M parameters on {frames:,} frames"
            f", {config.global_batch_formula} samples a step{_division(config)}",
        )
    )
    if resume_from and (before := saved_by(resume_from)) not in (0, config.processes):
        goes = "goes" if config.processes == 1 else "go"
        emit(
            WarningEvent(
                message=f"{resume_from.name} was saved by {before} process{'es' if before > 1 else ''}, and "
                f"{config.processes} {goes} on: dropout is drawn in another way from here.",
                hint="Order and noise of the samples stay the same where the global batch does, which is now "
                f"{config.global_batch_formula}.",
            )
        )
    trainer.train(resume_from_checkpoint=None if resume_from is None else str(resume_from))
    trainer.save_final()
    stop.release()
    return 128 + stop.received if stop.received else ExitCode.DONE


def _division(config: FinetuneConfig) -> str:
    if not config.fsdp:
        return ""
    return f", the model divided between {'all' if config.shards == config.processes else config.shards} GPUs (FSDP)"
