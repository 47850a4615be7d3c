"""Where the curves go: the W&B run of the spec, or TensorBoard."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from transformers import TrainerCallback

from trainer.config.finetune_config import FinetuneConfig
from trainer.config.run_spec import RunSpec
from trainer.errors import UsageError
from trainer.events import Event
from trainer.runner.wandb_setup import start_lone_run, start_run

RUN_SPEC = "PIPPA_RUN_SPEC"
"""Path of the run's spec, which names the W&B run and its lineage; not set when the engine is used by itself."""


def reporting(config: FinetuneConfig, output_dir: Path, emit: Callable[[Event], None]) -> list[TrainerCallback]:
    """The callbacks that send metrics where ``config.report_to`` says; only the first rank reports.

    The W&B run is started here, that of the run spec where there is one, before transformers' callback would start one
    by its own rules: it asks for a key, or fails. A W&B that can't be reached never stops a training.
    """
    if os.environ.get("RANK", "0") != "0":
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

    path = os.environ.get(RUN_SPEC)
    if path:
        run = start_run(RunSpec.model_validate_json(Path(path).read_text()), emit)
    else:
        run = start_lone_run(config, output_dir, emit)
    return [] if run is None else [WandbCallback()]
