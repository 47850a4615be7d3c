"""Where the curves go: the W&B run of the spec, or TensorBoard."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from transformers import TrainerCallback

from trainer.config.finetune_config import FinetuneConfig
from trainer.errors import UsageError
from trainer.events import Event
from trainer.runner.wandb_setup import start_run


def reporting(config: FinetuneConfig, output_dir: Path, emit: Callable[[Event], None]) -> list[TrainerCallback]:
    """The callbacks that send metrics where ``config.report_to`` says; only the first rank reports.

    The W&B run is started here, before transformers' callback would start one by its own rules: it asks for a key, or
    fails. A W&B that can't be reached never stops a training.
    """
    if os.environ.get("RANK", "0") != "0" or config.report_to == "none":
        return []
    if config.report_to == "tensorboard":
        from transformers.integrations import TensorBoardCallback

        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(output_dir / "runs"))
        return [TensorBoardCallback()]
    if config.report_to == "azure_ml":
        from transformers.integrations import AzureMLCallback

        try:
            return [AzureMLCallback()]
        except RuntimeError as error:
            raise UsageError(
                "--report-to azure_ml needs the package azureml-mlflow.",
                "Install it with `uv pip install azureml-mlflow`, or use --report-to wandb.",
            ) from error
    from transformers.integrations import WandbCallback

    return [] if start_run(config, output_dir, emit) is None else [WandbCallback()]
