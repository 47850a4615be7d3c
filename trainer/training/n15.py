"""A training of GR00T N1.5: base model, data and processor, put together for ``FinetuneTrainer``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import TrainerCallback, set_seed

from trainer.config.finetune_config import FinetuneConfig
from trainer.data.checks import Checked
from trainer.data.collate import Collator, finish_images
from trainer.data.configs import DataConfig, get_data_config
from trainer.data.dataset import TrainingDataset
from trainer.data.metadata import write_metadata
from trainer.data.policy_config import write_policy_config
from trainer.events import Event
from trainer.gr00t.base_model import resolve_folder
from trainer.gr00t.n15.compatibility import require_fit
from trainer.gr00t.n15.model import GR00TN15, resize_action_head
from trainer.gr00t.n15.processor import EagleProcessor
from trainer.training.adapters import add_adapters
from trainer.training.arguments import SEED, training_arguments
from trainer.training.finetune_trainer import FinetuneTrainer
from trainer.training.loading import FrameCache, policy_config, prepare_frames


def make_trainer(
    config: FinetuneConfig,
    checked: Sequence[Checked],
    *,
    resume_from: Path | None,
    callbacks: Callable[[], list[TrainerCallback]],
    emit: Callable[[Event], None],
) -> FinetuneTrainer:
    """The trainer of ``config``, whose base model is of N1.5; see ``trainer.training.finetuning``."""
    output_dir, base_model = Path(config.output_dir).absolute(), Path(config.base_model_path)
    data_config, cache = get_data_config(config.data_config), FrameCache(config)
    on_gpu = torch.cuda.is_available()
    dataset = TrainingDataset(
        [Path(path) for path in config.dataset_path],
        data_config,
        config.embodiment_tag,
        seed=SEED,
        cache_dir=cache.cache_dir,
        cache_bytes=cache.cache_bytes,
        spare_bytes=cache.spare_bytes,
        balance_dataset_weights=config.balance_dataset_weights,
        balance_trajectory_weights=config.balance_trajectory_weights,
        alignment=config.video_alignment,
        statistics=[each.statistics for each in checked],
        memory=cache.memory,
        holdout=config.holdout,
        exclude=[options.exclude_episodes for options in config.data_options],
        on_gpu=on_gpu,
    )
    prepare_frames(dataset.frames, dataset.held_out, emit, on_gpu=on_gpu)
    # A resumed model is loaded straight from its checkpoint, which is as complete as the base model was. Adapters were
    # merged into that one, so they need the base model itself.
    source = resume_from if resume_from and not config.lora_rank else base_model
    model = _model(config, source, data_config)
    processor = EagleProcessor.from_directory(source)
    write_metadata(output_dir / "experiment_cfg", dataset.metadata)
    known = policy_config(config, dataset, model.action_head.num_inference_timesteps)
    write_policy_config(output_dir / "experiment_cfg", known)

    set_seed(SEED)
    add_adapters(model, config, resume_from)
    return FinetuneTrainer(
        model=model,
        args=training_arguments(config, output_dir, dataset.sample_bytes),
        train_dataset=dataset,
        data_collator=Collator(processor),
        processor=processor,
        experiment_cfg=output_dir / "experiment_cfg",
        callbacks=callbacks(),
        emit=emit,
        lora=config.lora_rank > 0,
        shards=config.shards,
        finish_images=finish_images,
    )


def _model(config: FinetuneConfig, source: Path, data_config: DataConfig) -> GR00TN15:
    """The model in the folder ``source``, made for the sizes of ``data_config``. Raises ``UsageError``."""
    require_fit(config, resolve_folder(source))
    model = GR00TN15.from_pretrained(
        source,
        tune_llm=config.tune_llm,
        tune_visual=config.tune_visual,
        tune_projector=config.tune_projector,
        tune_diffusion_model=config.tune_diffusion_model,
    )
    resize_action_head(model, data_config.action_horizon, data_config.max_action_dim)
    if config.upstream_exact:
        model.config.upstream_exact = True  # in its checkpoints as well: they act as they were trained
    if torch.cuda.is_available():
        model.config.compute_dtype = "bfloat16"  # recorded in config.json, as upstream does
    return model
