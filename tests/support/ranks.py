"""Processes on the CPU that carry out several trainings after one another: they are started once, which is slow."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
import torch
from torch.optim import Optimizer

from tests.support.ports import free_port
from tests.support.training import SERVER, Training
from tests.support.waiting import PATIENCE


class Part(NamedTuple):
    """A training, or what is left of one after the checkpoint ``resume_from``."""

    training: Training
    resume_from: Path | None = None
    """Copied into the output folder first."""
    ends: int | None = None
    """The step whose checkpoint is the last, where that isn't the last step of the schedule."""


_Todo = tuple[list[str], tuple[Path, Path] | None, int | None]
"""A command line, what to copy before, and the step at which it ends."""


def train_together(parts: Sequence[Part], log: Path, count: int = 2) -> None:
    """Carry out ``parts`` on ``count`` processes, every step of which is logged; each rank leaves ``held-<rank>.json``
    in the output folder.

    It has the bytes of parameters and of AdamW's moments that the rank holds by itself.
    """
    environ = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count)}
    for name in ("PIPPA_HOME", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"):
        environ[name] = os.environ[name]
    todo: list[_Todo] = []
    for part in parts:
        if part.resume_from:
            copy = part.resume_from, part.training.output_dir / part.resume_from.name
            todo.append((part.training.argv(num_gpus=count, resume=True), copy, part.ends))
        else:
            todo.append((part.training.argv(num_gpus=count), None, part.ends))
    log.touch()
    ranks = [SERVER.Process(target=_rank, args=(rank, environ, todo, str(log))) for rank in map(str, range(count))]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(3 * PATIENCE)
        assert rank.exitcode == 0, log.read_text()[-8000:]


def _rank(rank: str, environ: dict[str, str], todo: list[_Todo], log: str) -> None:
    with open(log, "a") as file:  # noqa: PTH123 - a descriptor is wanted
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update({**environ, "RANK": rank, "LOCAL_RANK": rank})
    torch.set_num_threads(1)
    from transformers.trainer_callback import DefaultFlowCallback, TrainerControl, TrainerState

    from trainer.finetune import main
    from trainer.training import arguments
    from trainer.training.finetune_trainer import FinetuneTrainer

    def leave_held(self: FinetuneTrainer) -> None:
        held = {
            "parameters": sum(_own_bytes(each) for each in self._groot.parameters()),
            "moments": sum(
                _own_bytes(each)
                for state in cast("Optimizer", self.optimizer).state.values()
                for each in state.values()
            ),
        }
        (self._output_dir / f"held-{rank}.json").write_text(json.dumps(held))
        save_final(self)

    def end(self: DefaultFlowCallback, args: Any, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        on_step_end(self, args, state, control, **more)
        if state.global_step == ends:
            control.should_save = control.should_training_stop = True

    ends: int | None = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arguments, "LOGGING_STEPS", 1)
        on_step_end = DefaultFlowCallback.on_step_end
        patch.setattr(DefaultFlowCallback, "on_step_end", end)
        save_final = FinetuneTrainer.save_final
        patch.setattr(FinetuneTrainer, "save_final", leave_held)
        for argv, copy, ends in todo:  # noqa: B007 - read at each step
            if copy and rank == "0":
                shutil.copytree(*copy)
            if torch.distributed.is_initialized():
                torch.distributed.barrier()
            if code := main(argv):
                sys.exit(code)


def _own_bytes(tensor: torch.Tensor) -> int:
    own = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return own.numel() * own.element_size()
