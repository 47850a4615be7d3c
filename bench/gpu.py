"""``python -m bench.gpu``: training steps of the full-size N1.5, for each tune preset and batch, on a GPU.

2.7 B parameters with random weights, made on the device (backbone bfloat16, action head float32), trained by the native
engine's own trainer on synthetic demonstrations with loader processes, bf16 autocast and fused AdamW. Nothing is saved.
Prompts are spelled by the tokenizer of ``tiny``, a few tokens longer than the official one's.

Columns: *waits for data* is the share of time the training process was in the loader, at most what the GPU waited.
*MFU* is the work a step has to do (``bench.flops``) over what the device could do in that time. ``--size small`` runs
the same with a small model, on a CPU too.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer
from transformers import TrainerCallback

from bench.flops import peak_tflops, step_flops
from bench.loops.gate import peak_mb
from bench.models import small_config
from bench.table import report, table
from trainer.config.finetune_config import FinetuneConfig
from trainer.data.dataset import TrainingDataset
from trainer.data.metadata import write_metadata
from trainer.data.synthetic import make_synthetic
from trainer.gr00t.n15.config import GR00TN15Config
from trainer.gr00t.n15.model import GR00TN15
from trainer.gr00t.n15.processor import IMAGE_TOKEN, EagleProcessor
from trainer.gr00t.n15.tiny import make_tiny_base_model
from trainer.training.arguments import training_arguments
from trainer.training.finetune_trainer import FinetuneTrainer

TUNES = {
    "projector + DiT (default)": {"tune_projector": True, "tune_diffusion_model": True},
    "projector": {"tune_projector": True, "tune_diffusion_model": False},
    "all (overfit-long)": dict.fromkeys(("tune_llm", "tune_visual", "tune_projector", "tune_diffusion_model"), True),
}
DATA_CONFIG = "fourier_gr1_arms_only"


class Measured(NamedTuple):
    """What the measured steps took."""

    seconds: float
    loading: float
    memory_gb: float
    tokens: int
    images: int


class _Clock(TrainerCallback):
    """Waits for the device where the measured steps begin and end, and nowhere between."""

    def __init__(self, warm_up: int, device: torch.device) -> None:
        self.warm_up = warm_up
        self.device = device
        self.began = self.ended = 0.0
        self.loading = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002 - called by name
        if state.global_step == self.warm_up:
            self.loading, self.began = 0.0, self._now()
        elif state.global_step == args.max_steps:
            self.ended = self._now()

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


class _Trainer(FinetuneTrainer):
    """The engine's, with the time spent in the loader."""

    clock: _Clock
    shape = (0, 0)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return super().get_batch_samples(*args, **kwargs)
        finally:
            self.clock.loading += time.perf_counter() - began

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        batch, tokens = inputs["eagle_input_ids"].shape
        self.shape = (tokens, inputs["eagle_image_tokens"] // (batch * self._groot.config.eagle.image_tokens))
        return super().compute_loss(model, inputs, *args, **kwargs)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["full", "small"], default="full")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tune", choices=list(TUNES), nargs="+", default=list(TUNES))
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--peak-tflops", type=float, help="of a device that bench.flops doesn't know, bf16")
    parser.add_argument("--save", action="store_true", help="write bench/results/<date>-gpu.md")
    given = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    if given.size == "full" and not on_gpu:
        raise SystemExit("There is no GPU here; --size small runs on a CPU.")
    device = torch.device("cuda" if on_gpu else "cpu")
    name = torch.cuda.get_device_name() if on_gpu else "CPU"
    peak = given.peak_tflops or peak_tflops(name)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tokenizer = Tokenizer.from_file(str(make_tiny_base_model(folder / "tiny") / "tokenizer.json"))
        dataset = TrainingDataset(
            [make_synthetic(folder / "dataset")], DATA_CONFIG, "new_embodiment", cache_dir=folder / "frames"
        )
        dataset.prepare()
        write_metadata(folder / "experiment_cfg", dataset.metadata)
        with device:
            model = GR00TN15(model_config(given.size, tokenizer))
        processor = EagleProcessor(tokenizer, model.config.eagle)
        rows = []
        for tune in given.tune:
            for batch in given.batch:
                flags = {"tune_llm": False, "tune_visual": False, **TUNES[tune]}
                try:
                    took = measure(model, processor, dataset, folder, flags, batch, given)
                except torch.OutOfMemoryError:
                    rows.append([tune, batch, *["out of memory"] * 6])
                    continue
                finally:
                    model.zero_grad(set_to_none=True)
                    gc.collect()
                    torch.cuda.empty_cache()
                flops = batch * step_flops(model.config, tokens=took.tokens, images=took.images, **flags)
                mfu = f"{flops / took.seconds / (peak * 1e12):.1%}" if peak else "–"
                share = f"{took.loading / took.seconds:.1%}"
                rate = [1 / took.seconds, batch / took.seconds]
                rows.append([tune, batch, *rate, share, took.memory_gb, flops / 1e12, mfu])
    total = sum(parameter.numel() for parameter in model.parameters())
    columns = ["trained", "batch", "steps/s", "samples/s", "waits for data", "peak memory, GB", "TFLOP/step", "MFU"]
    about = f"{total / 1e9:.3g} B parameters on {name}" + (f", {peak:.0f} TFLOP/s at most." if peak else ".")
    report("gpu", "Training steps on a GPU", [about, table(columns, rows)], save=given.save)


def model_config(size: str, tokenizer: Tokenizer) -> GR00TN15Config:
    """The configuration of a model that prompts of ``tokenizer`` fit."""
    image_token = tokenizer.token_to_id(IMAGE_TOKEN)
    assert image_token is not None
    if size == "small":
        return small_config(image_token)
    official = GR00TN15Config()
    return GR00TN15Config(eagle_config={**(official.eagle_config or {}), "image_token_index": image_token})


def measure(
    model: GR00TN15,
    processor: EagleProcessor,
    dataset: TrainingDataset,
    folder: Path,
    flags: dict[str, bool],
    batch: int,
    given: argparse.Namespace,
) -> Measured:
    """Train ``given.steps`` steps after ``given.warm_up`` others."""
    model.set_trainable(**flags)
    steps = given.warm_up + given.steps
    config = FinetuneConfig(
        dataset_path=["synthetic"],
        batch_size=batch,
        max_steps=steps,
        dataloader_num_workers=given.workers,
        # What is loaded ahead while the GPU warms up would hide a loader that is too slow.
        dataloader_prefetch_factor=1,
    )
    arguments = training_arguments(config, folder / "out", dataset.sample_bytes)
    arguments.save_strategy = "no"
    clock = _Clock(given.warm_up, model.device)
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    trainer = _Trainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        processor=processor,
        experiment_cfg=folder / "experiment_cfg",
        callbacks=[clock],
    )
    trainer.clock = clock
    trainer.train()
    memory = torch.cuda.max_memory_allocated() / 1e9 if model.device.type == "cuda" else peak_mb() / 1e3
    return Measured((clock.ended - clock.began) / given.steps, clock.loading / given.steps, memory, *trainer.shape)


if __name__ == "__main__":
    main()
