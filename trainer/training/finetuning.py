"""A training of the native engine, from the checked flags to the last checkpoint. Importing it imports torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import set_seed

from trainer.config.finetune_config import FinetuneConfig
from trainer.config.settings import frame_cache_bytes, pippa_home
from trainer.data.checks import Checked
from trainer.data.collate import Collator
from trainer.data.configs import get_data_config
from trainer.data.dataset import TrainingDataset
from trainer.data.exclusion import named_episodes
from trainer.data.memory import Memory
from trainer.data.metadata import write_metadata
from trainer.data.policy_config import PolicyConfig, sources, write_policy_config
from trainer.errors import ExitCode, UsageError
from trainer.events import Event, PhaseEvent, WarningEvent
from trainer.forecast import room_for_checkpoints
from trainer.gr00t.lora import add_lora, load_adapter
from trainer.gr00t.n15.model import GR00TN15, resize_action_head
from trainer.gr00t.n15.processor import EagleProcessor
from trainer.gr00t.weight_files import ADAPTER
from trainer.training.arguments import SEED, training_arguments
from trainer.training.checkpoints import saved_by
from trainer.training.devices import check_device_count, check_gpu_usable
from trainer.training.finetune_trainer import FinetuneTrainer
from trainer.training.graceful_stop import StopOnSignal
from trainer.training.progress import EmitProgress
from trainer.training.reporting import reporting
from trainer.training.stop_signal import StopSignal


def train(
    config: FinetuneConfig,
    checked: Sequence[Checked],
    resume_from: Path | None,
    stop: StopSignal,
    emit: Callable[[Event], None],
) -> int:
    """Load data and model, train, and leave upstream's files in ``config.output_dir``. Returns the exit code.

    ``checked`` is what the check found of each dataset, ``resume_from`` the checkpoint to go on from.
    See ``trainer.finetune`` for the rest.
    """
    output_dir = Path(config.output_dir).absolute()
    output_dir.mkdir(parents=True, exist_ok=True)
    check_gpu_usable(torch.cuda.is_available(), torch.version.cuda)
    check_device_count(config.num_gpus, torch.cuda.device_count())

    data_config = get_data_config(config.data_config)
    base_model, cache_dir = Path(config.base_model_path), pippa_home() / "cache" / "frames"
    cache_dir.mkdir(parents=True, exist_ok=True)
    shares_disk = output_dir.stat().st_dev == cache_dir.stat().st_dev
    dataset = TrainingDataset(
        [Path(path) for path in config.dataset_path],
        data_config,
        config.embodiment_tag,
        seed=SEED,
        cache_dir=cache_dir,
        cache_bytes=frame_cache_bytes(),
        # A model of the hub is fetched when the dataset was found to be good; until then its size is not known.
        spare_bytes=room_for_checkpoints(base_model, config, output_dir) if shares_disk else 0,
        balance_dataset_weights=config.balance_dataset_weights,
        balance_trajectory_weights=config.balance_trajectory_weights,
        alignment=config.video_alignment,
        statistics=[each.statistics for each in checked],
        memory=Memory(pippa_home() / "cache" / "data.sqlite"),
        holdout=config.holdout,
        exclude=[options.exclude_episodes for options in config.data_options],
    )
    if config.exclude_episodes:
        emit(PhaseEvent(phase="load", message=f"Left out: {named_episodes(config.exclude_episodes)}"))
    for number, held_out in enumerate(dataset.held_out, start=1):
        if held_out:
            named = f"{'episode' if len(held_out) == 1 else 'episodes'} {', '.join(map(str, held_out))}"
            which = f" of dataset {number}" if len(dataset.held_out) > 1 else ""
            emit(PhaseEvent(phase="load", message=f"Held out{which}: {named}"))
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
            f"The data config {data_config} has max_state_dim {data_config.max_state_dim}; "
            f"{source} takes states of width {width}.",
            f"Set max_state_dim to {width}: states are padded to it.",
        )
    resize_action_head(model, data_config.action_horizon, data_config.max_action_dim)
    if config.upstream_exact:
        model.config.upstream_exact = True  # in its checkpoints as well: they act as they were trained
    if torch.cuda.is_available():
        model.config.compute_dtype = "bfloat16"  # recorded in config.json, as upstream does
    processor = EagleProcessor.from_directory(source)
    write_metadata(output_dir / "experiment_cfg", dataset.metadata)
    cameras, joints = sources(dataset.readers[0].meta, data_config)
    policy_config = PolicyConfig(
        data_config=data_config,
        embodiment_tag=config.embodiment_tag,
        action_horizon=data_config.action_horizon,
        denoising_steps=model.action_head.num_inference_timesteps,
        video_alignment=config.video_alignment,
        cameras=cameras,
        joints=joints,
        held_out=[each for held_out in dataset.held_out for each in held_out.values()],
        trained_on=dataset.trained_on,
        exclude_episodes=config.exclude_episodes,
    )
    write_policy_config(output_dir / "experiment_cfg", policy_config)

    set_seed(SEED)
    if config.lora_rank:
        add_lora(
            model,
            rank=config.lora_rank,
            alpha=config.lora_alpha,
            dropout=config.lora_dropout,
            full_model=config.lora_full_model,
            train_projector=config.tune_projector and not config.upstream_exact,
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
        data_collator=Collator(processor),
        processor=processor,
        experiment_cfg=output_dir / "experiment_cfg",
        callbacks=[StopOnSignal(stop), EmitProgress(emit), *reporting(config, output_dir, emit)],
        emit=emit,
        lora=config.lora_rank > 0,
    )
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    total = sum(parameter.numel() for parameter in model.parameters())
    emit(
        PhaseEvent(
            phase="train",
            message=f"Training {trained / 1e6:,.1f} M of {total / 1e6:,.1f} M parameters on {len(dataset):,} frames"
            f", {config.global_batch_formula} samples a step",
        )
    )
    if resume_from and (before := saved_by(resume_from)) not in (0, config.processes):
        goes = "goes" if config.processes == 1 else "go"
        emit(
            WarningEvent(
                message=f"{resume_from.name} was saved by {before} process{'es' if before > 1 else ''}, and "
                f"{config.processes} {goes} on: dropout is drawn in another way from here.",
                hint="Order and noise of the samples stay the same where the global batch does, which is now "
                f"{config.global_batch_formula}.",
            )
        )
    trainer.train(resume_from_checkpoint=None if resume_from is None else str(resume_from))
    trainer.save_final()
    stop.release()
    return 128 + stop.received if stop.received else ExitCode.DONE
