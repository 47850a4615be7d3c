"""The native engine's command line: what it refuses, and what it says while it trains."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from trainer.errors import ExitCode, UsageError
from trainer.events import Event, ProgressEvent, WarningEvent
from trainer.finetune import main
from trainer.training.progress import EmitProgress


def test_a_dataset_must_be_named() -> None:
    with pytest.raises(UsageError, match="--dataset-path is required"):
        main(["--max-steps", "1"])


def test_resuming_nothing_is_refused_before_torch_is_loaded(tmp_path: Path) -> None:
    code = """if True:
        import sys
        from trainer.cli import main
        try:
            main(sys.argv[1:])
        finally:
            assert "torch" not in sys.modules
    """
    argv = ["finetune", "--dataset-path", str(tmp_path), "--output-dir", str(tmp_path / "out"), "--resume"]
    ended = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True)
    assert ended.returncode == ExitCode.USAGE, ended.stderr
    assert "there is no checkpoint in" in ended.stdout + ended.stderr


def test_a_training_that_diverges_says_so_once() -> None:
    events: list[Event] = []
    progress = EmitProgress(events.append)
    args = cast(
        TrainingArguments,
        type("Args", (), {"per_device_train_batch_size": 1, "world_size": 1, "gradient_accumulation_steps": 1})(),
    )
    state = TrainerState(global_step=10, max_steps=100)
    progress.on_train_begin(args, state, TrainerControl())
    for loss in (0.5, math.nan, math.inf):
        progress.on_log(args, state, TrainerControl(), {"loss": loss, "learning_rate": 1e-4, "grad_norm": loss})
    assert [event.loss for event in events if isinstance(event, ProgressEvent)] == [0.5, None, None]
    (warning,) = [event for event in events if isinstance(event, WarningEvent)]
    assert "nan near step 10" in warning.message
    assert "--learning-rate" in warning.hint
