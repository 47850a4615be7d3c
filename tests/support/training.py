"""Trainings by the native engine's command line, in this process or in one of their own, and what they leave."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Generator
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file

from tests.support.waiting import PATIENCE, until
from trainer.config.flags import flag
from trainer.events import Event, parse_event
from trainer.gr00t.n15.tiny import make_tiny_base_model

# A process forked from one that has already imported torch and transformers starts in no time, and is as killable.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.support.training", "trainer.training.finetuning", "tests.support.warm"])


def warm_up() -> None:
    """Let the server import torch while the first tests run."""
    forkserver.ensure_running()


class Training:
    """One command line of ``trainer finetune``."""

    def __init__(self, flags: dict[str, Any]) -> None:
        self.flags = flags
        self.output_dir = Path(flags["output_dir"])
        self.events: list[Event] = []
        self.alone = True
        """Whether every part of it had a separate process."""

    def in_folder(self, name: str, **changes: Any) -> Training:
        """The same training in another folder, beside this one's, with ``changes``."""
        return Training({**self.flags, **changes, "output_dir": self.output_dir.with_name(name)})

    def argv(self, **changes: Any) -> list[str]:
        """The flags, with ``changes``."""
        argv: list[str] = []
        for name, value in {**self.flags, **changes}.items():
            if isinstance(value, bool):
                argv.append(flag(name, on=value))
            else:
                argv += [flag(name), *map(str, value if isinstance(value, list) else [value])]
        return argv

    def run(self, **changes: Any) -> int:
        """Train in this process; returns the exit code. Raises what the engine raises."""
        from trainer.finetune import main

        self.alone = False
        printed = io.StringIO()
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            # It chooses the GPUs for its whole process, which here has other tests to run.
            with contextlib.redirect_stdout(printed), patch.dict(os.environ):
                return main(self.argv(**changes))
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            self.events = [event for line in printed.getvalue().splitlines() if (event := parse_event(line))]

    def start(
        self,
        environ: dict[str, str] | None = None,
        power_cut: int | None = None,
        *,
        only_loads: bool = False,
        **changes: Any,
    ) -> ForkServerProcess:
        """Train in a separate process, whose output goes to ``log``.

        See ``power_cut_after`` for ``power_cut``, and ``endless_loading`` for ``only_loads``.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.touch()
        variables = {name: os.environ[name] for name in ("PIPPA_HOME", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")}
        argv, variables = self.argv(**changes), {**variables, **(environ or {})}
        process = SERVER.Process(target=_child, args=(argv, variables, str(self.log), power_cut, only_loads))
        process.start()
        return process

    def run_alone(self, **changes: Any) -> int:
        """Train in a separate process to the end; returns the exit code."""
        process = self.start(**changes)
        process.join(PATIENCE)
        assert process.exitcode is not None, self.log.read_text()
        return process.exitcode

    @property
    def log(self) -> Path:
        """Both streams of a training started with ``start``."""
        return self.output_dir.with_name(f"{self.output_dir.name}.log")

    def wait_for(self, condition: Callable[[], bool], process: ForkServerProcess) -> None:
        """Wait until ``condition`` holds; fails when the training ends before."""
        until(condition, self.log.read_text, alive=process.is_alive)

    def wait_for_event(self, name: str, process: ForkServerProcess) -> None:
        """Wait until the training says ``name``: an event, or a phase."""
        self.wait_for(lambda: f'"{name}"' in self.log.read_text(), process)

    @property
    def steps(self) -> list[int]:
        """The steps of the checkpoints, lowest first."""
        return sorted(int(path.name.removeprefix("checkpoint-")) for path in self.output_dir.glob("checkpoint-*"))

    def checkpoint(self, step: int) -> Path:
        """The folder of one."""
        return self.output_dir / f"checkpoint-{step}"

    def weights(self, step: int) -> dict[str, torch.Tensor]:
        """All weights of a checkpoint by name."""
        files = sorted(self.checkpoint(step).glob("*.safetensors"))
        return {name: tensor for file in files for name, tensor in load_file(file).items()}

    def state(self, step: int) -> dict[str, Any]:
        """Optimizer, schedule and random state of a checkpoint, and the trainer's own."""
        folder = self.checkpoint(step)
        parts = {file.name: torch.load(file, weights_only=False) for file in sorted(folder.glob("*.pt*"))}
        return {**parts, "trainer_state.json": json.loads((folder / "trainer_state.json").read_text())}

    def losses(self, step: int) -> list[float]:
        """What was logged up to a checkpoint."""
        history = json.loads((self.checkpoint(step) / "trainer_state.json").read_text())["log_history"]
        return [entry["loss"] for entry in history if "loss" in entry]


def small_training(output_dir: Path, dataset: Path, base_model: Path, **flags: object) -> Training:
    """Four steps of two samples, saved twice, with no processes to load them; ``flags`` say otherwise."""
    defaults: dict[str, object] = {
        "dataset_path": [dataset],
        "base_model_path": base_model,
        "output_dir": output_dir,
        "batch_size": 2,
        "max_steps": 4,
        "save_steps": 2,
        "dataloader_num_workers": 0,
        "report_to": "tensorboard",
    }
    return Training({**defaults, **flags})


def tiny_with_dropout(path: Path) -> Path:
    """The tiny base model with upstream's dropout: without it, a wrong random state would go unnoticed."""
    make_tiny_base_model(path)
    config = json.loads((path / "config.json").read_text())
    for part in ("diffusion_model_cfg", "vl_self_attention_cfg"):
        config["action_head_cfg"][part]["dropout"] = 0.2
    (path / "config.json").write_text(json.dumps(config))
    return path


def _child(argv: list[str], environ: dict[str, str], log: str, power_cut: int | None, only_loads: bool) -> None:
    with open(log, "a") as file:  # noqa: PTH123 - a descriptor is wanted
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(environ)
    multiprocessing.set_start_method("fork", force=True)  # for the data loaders: the default outside of tests
    torch.set_num_threads(1)
    from trainer.cli import main

    sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), line_buffering=True)
    with contextlib.ExitStack() as patched:
        if power_cut:
            patched.enter_context(power_cut_after(power_cut))
        if only_loads:
            patched.enter_context(endless_loading())
        main(["finetune", *argv])


class PowerCutError(Exception):
    """Ends the training as if the machine had gone away."""


@contextlib.contextmanager
def power_cut_after(step: int) -> Generator[None]:
    """A training in here ends right after the checkpoint of ``step``, with the schedule of the whole."""
    from trainer.training.finetune_trainer import FinetuneTrainer

    save = FinetuneTrainer._save_checkpoint

    def save_and_end(self: FinetuneTrainer, model: torch.nn.Module, trial: Any) -> None:
        save(self, model, trial)
        if self.state.global_step == step:
            raise PowerCutError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FinetuneTrainer, "_save_checkpoint", save_and_end)
        yield


def interrupted(training: Training, step: int, **changes: Any) -> None:
    """Train in this process, and end right after the checkpoint of ``step``."""
    with power_cut_after(step), pytest.raises(PowerCutError):
        training.run(**changes)


@contextlib.contextmanager
def endless_loading() -> Generator[None]:
    """A training in here has data and model, and never comes to its first step."""
    from trainer.training import finetuning

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetuning, "reporting", lambda *_: time.sleep(PATIENCE))
        yield


def assert_same_training(ours: Training, theirs: Training, step: int) -> None:
    """The same weights, optimizer, schedule and random state at ``step``."""
    assert_same(ours.weights(step), theirs.weights(step))
    ours_state, theirs_state = ours.state(step), theirs.state(step)
    for state in (ours_state, theirs_state):
        # The first loss logged after a resume is the mean of the steps since, not of all ten; and times differ.
        del state["trainer_state.json"]["log_history"]
        # Other threads of the tests' own process draw from Python's generator too, which all share (retry jitter).
        for name in state:
            if name.startswith("rng_state") and not (ours.alone and theirs.alone):
                del state[name]["python"]
    assert_same(ours_state, theirs_state)


def assert_same(ours: Any, theirs: Any, where: str = "") -> None:
    """Equal to the last bit, through dictionaries and lists of tensors."""
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            assert_same(ours[key], theirs[key], f"{where}/{key}")
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), where
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(one, other, f"{where}/{index}")
    elif isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), f"{where}: {(ours - theirs).abs().max()}"
    elif hasattr(ours, "tobytes"):
        assert ours.tobytes() == theirs.tobytes(), where
    else:
        assert ours == theirs, where
