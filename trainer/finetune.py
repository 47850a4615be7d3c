"""The native engine: a drop-in for upstream's ``scripts/gr00t_finetune.py``, with its flags and its output folder.

Beside upstream's files it prints events (``trainer.events``) on stdout; everything for people goes to stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from trainer import outputs
from trainer.argv import parse_flags
from trainer.config import FinetuneConfig
from trainer.errors import EngineError, ExitCode, UsageError
from trainer.events import Emitter, Event, PhaseEvent
from trainer.failures import explain
from trainer.parent import die_with_parent
from trainer.settings import frame_cache_bytes, pippa_home
from trainer.training.devices import (
    check_device_count,
    check_gpu_usable,
    choose_devices,
    needs_torchrun,
    run_under_torchrun,
)
from trainer.training.stop_signal import StopSignal

UPSTREAM_EXACT = "--upstream-exact"
_OWN_HELP = f"""
the native engine's own:
  {UPSTREAM_EXACT}  do as upstream does even where that is worse: attend to padding tokens, so that a sample's
                    result depends on its batch (recorded in config.json), and with --lora-rank don't train
                    the embodiment's projector beside the adapters
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Train as ``argv`` says. Returns 0, or 128 + the signal that stopped the training after a checkpoint.

    Raises:
        PippaError: whatever the user can cure, with its exit code.

    """
    argv = list(sys.argv[1:] if argv is None else argv)
    config, given, upstream_exact = _parse(argv)
    if "dataset_path" not in given:
        raise UsageError("--dataset-path is required.", "Name the folder of a dataset: --dataset-path path/to/dataset")
    die_with_parent()
    choose_devices(config.num_gpus)
    if needs_torchrun(config.num_gpus):
        import torch

        check_gpu_usable(torch.cuda.is_available(), torch.version.cuda)
        check_device_count(config.num_gpus, torch.cuda.device_count())
        return run_under_torchrun(config.num_gpus, argv)
    emit = Emitter() if os.environ.get("RANK", "0") == "0" else _silent
    try:
        return finetune(config, emit, upstream_exact=upstream_exact)
    except (RuntimeError, MemoryError, OSError) as error:
        problem = explain(ExitCode.FAILED, [f"{type(error).__name__}: {error}"])
        if isinstance(problem, EngineError):  # nothing it knows a cure for
            raise
        raise problem from error


def _parse(argv: Sequence[str]) -> tuple[FinetuneConfig, set[str], bool]:
    """The configuration, the fields that were given, and whether ``--upstream-exact`` was.

    That flag is the native engine's own: ``FinetuneConfig`` has upstream's arguments, which every engine takes.
    """
    own = {argument for argument in argv if argument.replace("_", "-") == UPSTREAM_EXACT}
    try:
        config, given = parse_flags(
            [argument for argument in argv if argument not in own],
            FinetuneConfig(dataset_path=["…"]),
            prog="trainer finetune",
        )
    except SystemExit:
        sys.stdout.write(_OWN_HELP)
        raise
    return config, given, bool(own)


def finetune(config: FinetuneConfig, emit: Callable[[Event], None], *, upstream_exact: bool = False) -> int:
    """Load data and model, train, and leave upstream's files in ``config.output_dir``. Returns the exit code.

    ``upstream_exact`` keeps upstream's behaviour where it differs from what is right (see ``--help``).
    """
    output_dir = Path(config.output_dir).absolute()
    resume_from = next(reversed(outputs.checkpoints(output_dir).values()), None) if config.resume else None
    if config.resume and resume_from is None:
        raise UsageError(
            f"--resume: there is no checkpoint in {output_dir}.", "Leave --resume out to start from the base model."
        )
    stop = StopSignal()
    emit(PhaseEvent(phase="load", message="Loading torch, the dataset and the base model"))
    import torch
    from transformers import set_seed

    from trainer.data.configs import get_data_config
    from trainer.data.dataset import TrainingDataset
    from trainer.data.metadata import write_metadata
    from trainer.gr00t.lora import ADAPTER, add_lora, load_adapter
    from trainer.gr00t.model import GR00TN15, resize_action_head
    from trainer.gr00t.processor import EagleProcessor
    from trainer.training.arguments import SEED, training_arguments
    from trainer.training.hf import FinetuneTrainer
    from trainer.training.progress import EmitProgress
    from trainer.training.reporting import reporting
    from trainer.training.room import room_for_checkpoints
    from trainer.training.stop import StopOnSignal

    output_dir.mkdir(parents=True, exist_ok=True)
    check_gpu_usable(torch.cuda.is_available(), torch.version.cuda)
    check_device_count(config.num_gpus, torch.cuda.device_count())

    data_config = get_data_config(config.data_config)
    base_model, cache_dir = Path(config.base_model_path), pippa_home() / "cache" / "frames"
    cache_dir.mkdir(parents=True, exist_ok=True)
    dataset = TrainingDataset(
        [Path(path) for path in config.dataset_path],
        data_config,
        config.embodiment_tag,
        seed=SEED,
        cache_dir=cache_dir,
        cache_bytes=frame_cache_bytes(),
        # A model of the hub is fetched when the dataset was found to be good; until then its size is not known.
        spare_bytes=room_for_checkpoints(base_model, config, output_dir, cache_dir) if base_model.is_dir() else 0,
        balance_dataset_weights=config.balance_dataset_weights,
        balance_trajectory_weights=config.balance_trajectory_weights,
    )
    if missing := dataset.frames.missing():
        emit(PhaseEvent(phase="load", message=f"Decoding {missing:,} videos into the frame cache, once"))
        dataset.prepare()
    # A resumed model is loaded straight from its checkpoint, which is as complete as the base model was. Adapters were
    # merged into that one, so they need the base model itself.
    source = resume_from if resume_from and not config.lora_rank else base_model
    model = GR00TN15.from_pretrained(
        source,
        tune_llm=config.tune_llm,
        tune_visual=config.tune_visual,
        tune_projector=config.tune_projector,
        tune_diffusion_model=config.tune_diffusion_model,
    )
    if data_config.max_state_dim != (width := model.config.action_head.max_state_dim):
        raise UsageError(
            f"The data config {config.data_config} has max_state_dim {data_config.max_state_dim}; "
            f"{source} takes states of width {width}.",
            f"Set max_state_dim to {width}: states are padded to it.",
        )
    resize_action_head(model, data_config.action_horizon, data_config.max_action_dim)
    if upstream_exact:
        model.config.upstream_exact = True  # in its checkpoints as well: they act as they were trained
    if torch.cuda.is_available():
        model.config.compute_dtype = "bfloat16"  # recorded in config.json, as upstream does
    processor = EagleProcessor.from_directory(source)
    write_metadata(output_dir / "experiment_cfg", dataset.metadata)

    set_seed(SEED)
    if config.lora_rank:
        add_lora(
            model,
            rank=config.lora_rank,
            alpha=config.lora_alpha,
            dropout=config.lora_dropout,
            full_model=config.lora_full_model,
            train_projector=config.tune_projector and not upstream_exact,
        )
        if resume_from:
            load_adapter(model, resume_from)
    elif resume_from and (resume_from / ADAPTER).is_dir():
        raise UsageError(
            f"{resume_from} was trained with LoRA.",
            "Resume with its LoRA flags, or leave --resume out and give it as --base-model-path to train all of it.",
        )
    trainer = FinetuneTrainer(
        model=model,
        args=training_arguments(config, output_dir, dataset.sample_bytes),
        train_dataset=dataset,
        processor=processor,
        experiment_cfg=output_dir / "experiment_cfg",
        callbacks=[StopOnSignal(stop), EmitProgress(emit), *reporting(config, output_dir, emit)],
        lora=config.lora_rank > 0,
    )
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    total = sum(parameter.numel() for parameter in model.parameters())
    emit(
        PhaseEvent(
            phase="train",
            message=f"Training {trained / 1e6:,.1f} M of {total / 1e6:,.1f} M parameters on {len(dataset):,} frames",
        )
    )
    trainer.train(resume_from_checkpoint=None if resume_from is None else str(resume_from))
    trainer.save_final()
    stop.release()
    return 128 + stop.received if stop.received else ExitCode.DONE


def _silent(_: Event) -> None:
    """Ranks other than 0 have nothing to add."""


if __name__ == "__main__":
    from trainer.cli import main as trainer

    trainer(["finetune", *sys.argv[1:]])
