"""Training steps by the engine's own trainer, timed: a model with random weights on synthetic demonstrations.

Weights are made on the device (of N1.5's full size the backbone in bfloat16, all else in float32). Prompts
are spelled by the tokenizer of ``tiny``, a few tokens longer than the official one's. Nothing is saved.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import TrainerCallback

from bench.drill.subjects import SUBJECTS, Made, Subject
from bench.loops.gate import peak_mb
from bench.loops.upstream_way import OPTIMIZER, STEP
from trainer.data.synthetic import make_synthetic
from trainer.training.arguments import training_arguments
from trainer.training.finetune_trainer import FinetuneTrainer

FLAGS = ("tune_llm", "tune_visual", "tune_projector", "tune_diffusion_model")
TUNES = {
    "default": dict(zip(FLAGS, (False, False, True, True), strict=True)),
    "projector": dict(zip(FLAGS, (False, False, True, False), strict=True)),
    "everything": dict.fromkeys(FLAGS, True),
}


class Size(NamedTuple):
    """How much a drill does."""

    batches: tuple[int, ...]
    warm_up: int
    steps: int
    workers: int
    episodes: int


# Frames for one epoch of the largest batch: between two epochs the loading starts over, which takes as long as a step.
SIZES = {"full": Size((1, 8, 32), 5, 20, 8, 16), "small": Size((1, 2), 1, 2, 0, 2)}
"""``full`` is the model as it is, on a GPU; ``small`` the tiny one, to run everything once on a CPU."""


@dataclass(frozen=True)
class Bench:
    """A model on the device, and data for it."""

    size: Size
    subject: Subject
    made: Made
    folder: Path

    @property
    def model(self) -> Any:
        """Of the subject's generation."""
        return self.made.model

    @property
    def dataset(self) -> Any:
        """Its training samples."""
        return self.made.dataset

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device


class Measured(NamedTuple):
    """What one of the measured steps took, on average."""

    seconds: float
    loading: float
    memory: int
    """Bytes at most: of the device's memory or, without a GPU, of the process."""
    tokens: int
    images: int


def device() -> torch.device:
    """The GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def bench(size: str, generation: str) -> Generator[Bench]:
    """A model of ``size``, ``full`` or ``small``, with random weights, and the synthetic dataset with its frames."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, subject = Path(temporary), SUBJECTS[generation]
        path = make_synthetic(folder / "dataset", episodes=SIZES[size].episodes)
        yield Bench(SIZES[size], subject, subject.make(size, folder, path, device()), folder)


class MeasuredTrainer(FinetuneTrainer):
    """The engine's, with the time spent in the loader and the shape of the last batch."""

    loading = 0.0
    shape: tuple[int, int] = (0, 0)
    subject: Subject

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Wait for the next batches."""
        began = time.perf_counter()
        try:
            return super().get_batch_samples(*args, **kwargs)
        finally:
            self.loading += time.perf_counter() - began

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The loss of one batch, whose shape is noted."""
        self.shape = self.subject.shape(self._groot, inputs)
        return super().compute_loss(model, inputs, *args, **kwargs)


class _UpstreamsWay(MeasuredTrainer):
    training_step = STEP["training_step"]
    _clip_grad_norm = STEP["_clip_grad_norm"]


class Clock(TrainerCallback):
    """Waits for the device where the measured steps begin and end, and nowhere between."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last
        self.began = self.ended = 0.0
        self.trainer: MeasuredTrainer

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002 - called by name
        """Read the clock."""
        if state.global_step == self.first:
            self.began, self.trainer.loading = now(), 0.0
        elif state.global_step == self.last:
            self.ended = now()

    @property
    def seconds(self) -> float:
        """Of a step."""
        return (self.ended - self.began) / (self.last - self.first)


def now() -> float:
    """Seconds, when the device has done all it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def make_trainer(
    bench: Bench,
    tune: str,
    batch: int,
    steps: int,
    callbacks: Sequence[TrainerCallback],
    *,
    upstreams_way: bool = False,
) -> MeasuredTrainer:
    """The engine's trainer for ``steps`` steps that save nothing."""
    bench.model.set_trainable(**TUNES[tune])
    config = bench.subject.config(
        batch,
        dataset_path=["synthetic"],
        max_steps=steps,
        dataloader_num_workers=bench.size.workers,
        # What is loaded ahead while the GPU warms up would hide a loader that is too slow.
        dataloader_prefetch_factor=1,
    )
    arguments = training_arguments(config, bench.folder / "out", bench.dataset.sample_bytes)
    arguments.save_strategy = "no"
    if upstreams_way:
        arguments.optim = OPTIMIZER
    trainer_class = _UpstreamsWay if upstreams_way else MeasuredTrainer
    trainer = trainer_class(
        model=bench.model,
        args=arguments,
        train_dataset=bench.dataset,
        data_collator=bench.made.collate,
        processor=bench.made.processor,
        experiment_cfg=bench.folder / "experiment_cfg",
        callbacks=list(callbacks),
        finish_images=bench.made.finish_images,
    )
    trainer.subject = bench.subject
    return trainer


def measure(bench: Bench, tune: str, batch: int, *, upstreams_way: bool = False) -> Measured:
    """Train some steps after some others to warm up, and free what they took."""
    on_gpu, steps = bench.device.type == "cuda", bench.size.steps
    clock = Clock(bench.size.warm_up, bench.size.warm_up + steps)
    undo = bench.subject.waste(bench.model) if upstreams_way else None
    try:
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        trainer = make_trainer(bench, tune, batch, clock.last, [clock], upstreams_way=upstreams_way)
        clock.trainer = trainer
        trainer.train()
        memory = torch.cuda.max_memory_allocated() if on_gpu else int(peak_mb() * 1e6)
        return Measured(clock.seconds, trainer.loading / steps, memory, *trainer.shape)
    finally:
        if undo:
            undo()
        free(bench.model)


def free(model: Any) -> None:
    """Give back what a training has left on the device, and the model its own methods: accelerate wraps ``forward``."""
    for name in ("forward", "_original_forward", "zero_grad"):
        model.__dict__.pop(name, None)
    model.zero_grad(set_to_none=True)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def flops(bench: Bench, tune: str, batch: int, measured: Measured) -> float:
    """Operations that a step has to do."""
    return batch * bench.subject.flops(bench.made, measured.tokens, measured.images, TUNES[tune])
