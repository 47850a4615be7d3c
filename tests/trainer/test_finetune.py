"""The native engine's command line: what it refuses, and what it says while it trains."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from tests.support.fake_engine import write
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


ARGS = cast(
    TrainingArguments,
    type("Args", (), {"per_device_train_batch_size": 1, "world_size": 1, "gradient_accumulation_steps": 1})(),
)


@pytest.mark.parametrize("last", [4, 3])
def test_the_last_step_is_told_however_fast_the_steps_were(last: int) -> None:
    events: list[Event] = []
    progress, state = EmitProgress(events.append), TrainerState(max_steps=4)
    for step in range(1, last + 1):
        state.global_step = step
        progress.on_step_end(ARGS, state, TrainerControl())
    progress.on_train_end(ARGS, state, TrainerControl())
    assert [event.step for event in events if isinstance(event, ProgressEvent)] == [1, last]


def test_a_training_that_diverges_says_so_once() -> None:
    events: list[Event] = []
    progress = EmitProgress(events.append)
    state = TrainerState(global_step=10, max_steps=100)
    progress.on_train_begin(ARGS, state, TrainerControl())
    for loss in (0.5, math.nan, math.inf):
        progress.on_log(ARGS, state, TrainerControl(), {"loss": loss, "learning_rate": 1e-4, "grad_norm": loss})
    assert [event.loss for event in events if isinstance(event, ProgressEvent)] == [0.5, None, None]
    (warning,) = [event for event in events if isinstance(event, WarningEvent)]
    assert "nan near step 10" in warning.message
    assert "--learning-rate" in warning.hint


def test_a_training_at_its_last_step_is_over_and_beyond_it_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    write(tmp_path / "checkpoint-5", 5)
    argv = ["--dataset-path", str(tmp_path / "none"), "--output-dir", str(tmp_path), "--resume", "--max-steps"]
    with pytest.raises(UsageError, match="beyond --max-steps 4"):
        main([*argv, "4"])
    assert main([*argv, "5"]) == 0
    assert "Nothing is left to train" in capsys.readouterr().out
    assert (tmp_path / "model.safetensors.index.json").is_file()
    (tmp_path / "checkpoint-5" / "optimizer.pt").unlink()
    with pytest.raises(UsageError, match=r"optimizer\.pt is missing"):
        main([*argv, "6"])
