"""The native engine: a drop-in for upstream's ``scripts/gr00t_finetune.py``, with its flags and its output folder.

For a base model of GR00T N1.7 it has the flags of ``gr00t/experiment/launch_finetune.py`` instead. Beside upstream's
files it prints events (``trainer.events``) on stdout; everything for people goes to stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.config.argv import base_model_in, parse_flags
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.generations import config_of
from trainer.errors import EngineError, ExitCode, UsageError
from trainer.events import Emitter, Event, PhaseEvent
from trainer.forecast import read_sections
from trainer.heavy_imports import heavy_imports
from trainer.importers.generations import require_horizon
from trainer.memory_advice import advice
from trainer.output import stdout_is_log
from trainer.runner import checkpoint_folder
from trainer.runner.crash_diagnosis import OomKills, explain
from trainer.runner.dataset_check import check_datasets
from trainer.runner.nodes import this_node
from trainer.runner.parent_watch import PARENT_PID, die_with_parent
from trainer.training.checkpoints import leave_final_model
from trainer.training.devices import (
    check_device_count,
    check_gpu_usable,
    choose_devices,
    needs_torchrun,
    run_under_torchrun,
)
from trainer.training.stop_signal import StopSignal

if TYPE_CHECKING:
    from trainer.data.checks import Checked


def main(argv: Sequence[str] | None = None) -> int:
    """Train as ``argv`` says. Returns 0, or 128 + the signal that stopped the training after a checkpoint.

    Raises:
        PippaError: whatever the user can cure, with its exit code.

    """
    argv = list(sys.argv[1:] if argv is None else argv)
    config, given = parse_flags(argv, config_of(base_model_in(argv))(dataset_path=["…"]))
    if "dataset_path" not in given:
        raise UsageError("--dataset-path is required.", "Name the folder of a dataset: --dataset-path path/to/dataset")
    die_with_parent()
    stdout_is_log()
    choose_devices(config.num_gpus)
    emit = Emitter() if os.environ.get("RANK", "0") == "0" else _silent
    if needs_torchrun(config.processes):
        with heavy_imports():
            import torch

            from trainer.training.refusal import told

        node = this_node(config.num_nodes)
        with told(node):
            check_gpu_usable(torch.cuda.is_available(), torch.version.cuda)
            check_device_count(config.num_gpus, torch.cuda.device_count())
            _check(config, emit)  # once, not by every rank at the same time
        before = OomKills.now()
        if node.count == 1:
            code = run_under_torchrun(config.num_gpus, argv)
        else:
            from trainer.training.multi_node import train_together

            code = train_together(config, argv, node, _newest(config), emit)
        if code < 0:  # a rank was killed
            raise explain(code, [], oom_kills=OomKills.now().since(before), advice=_less(config))
        return code
    try:
        return finetune(config, emit)
    except (RuntimeError, MemoryError, OSError) as error:
        problem = explain(ExitCode.FAILED, [f"{type(error).__name__}: {error}"], advice=_less(config))
        if isinstance(problem, EngineError):  # nothing it knows a cure for
            raise
        raise problem from error


def finetune(config: FinetuneConfig, emit: Callable[[Event], None]) -> int:
    """Check the data, load it and the model, train, and leave upstream's files in ``config.output_dir``.

    Returns the exit code.
    """
    output_dir = Path(config.output_dir).absolute()
    resume_from = _newest(config)
    if config.resume and resume_from is None:
        raise UsageError(
            f"--resume: there is no checkpoint in {output_dir}.", "Leave --resume out to start from the base model."
        )
    if resume_from is not None and _nothing_left(config, resume_from, emit):
        leave_final_model(output_dir, resume_from)
        return ExitCode.DONE
    checked = _check(config, emit)
    stop = StopSignal()
    emit(PhaseEvent(phase="load", message="Loading torch, the dataset and the base model"))
    with heavy_imports():
        from trainer.training.finetuning import train

        config.generation.module("training")  # the model comes with it

    return train(config, checked, resume_from, stop, emit)


def _less(config: FinetuneConfig) -> str:
    """How to train with less memory."""
    return advice(config, read_sections(Path(config.base_model_path)))


def _newest(config: FinetuneConfig) -> Path | None:
    """The checkpoint to continue from, if there is one and ``--resume`` is set."""
    found = checkpoint_folder.checkpoints(Path(config.output_dir).absolute()) if config.resume else {}
    return next(reversed(found.values()), None)


def _nothing_left(config: FinetuneConfig, resume_from: Path, emit: Callable[[Event], None]) -> bool:
    """Whether the checkpoint to continue from is at the last step already.

    Raises ``UsageError`` for one beyond it, and for one that lacks something: a training from there would be another.
    """
    step = int(resume_from.name.removeprefix("checkpoint-"))
    if step > config.max_steps:
        raise UsageError(
            f"--resume: {resume_from} is beyond --max-steps {config.max_steps}.",
            f"Raise --max-steps above {step}, or move the later checkpoints to another folder.",
        )
    if step == config.max_steps:
        emit(PhaseEvent(phase="train", message=f"Nothing is left to train: {resume_from.name} is the last step."))
        return True
    if problem := checkpoint_folder.resume_problem(resume_from, step):
        raise UsageError(
            f"--resume: {resume_from} is not whole: {problem}.",
            "Move it to another folder to continue from the one before.",
        )
    return False


def _check(config: FinetuneConfig, emit: Callable[[Event], None]) -> list[Checked]:
    """What a check finds of each dataset, by this process or one before. Raises ``DatasetError``, and ``UsageError``
    for a data config that is not the base model's.
    """
    require_horizon(config)
    # The process that started this, `trainer run` or the one in front of the ranks, has checked and reported the same.
    reported = PARENT_PID in os.environ or "RANK" in os.environ
    datasets = [(Path(path), path) for path in config.dataset_path]
    return check_datasets(
        datasets, config, _silent if reported else emit, Path(config.base_model_path), warn=not reported
    )


def _silent(_: Event) -> None:
    """Ranks other than 0 have nothing to add."""


if __name__ == "__main__":
    from trainer.cli import main as trainer

    trainer(["finetune", *sys.argv[1:]])
