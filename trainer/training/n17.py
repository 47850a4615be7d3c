"""A training of GR00T N1.7: base model, data and processor files, put together for ``FinetuneTrainer``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from transformers import TrainerCallback, set_seed

from trainer.config.finetune_config import FinetuneConfig
from trainer.config.settings import frame_cache_bytes, pippa_home
from trainer.data.configs import get_data_config
from trainer.data.frames import FrameStore
from trainer.data.holdout_rule import NO_HOLDOUT
from trainer.data.n17 import processor_files
from trainer.data.n17.collate import Collator
from trainer.data.n17.dataset import TrainingDataset
from trainer.data.n17.processor_files import ProcessorFiles
from trainer.data.policy_config import PolicyConfig, sources, write_policy_config
from trainer.errors import UsageError
from trainer.events import Event
from trainer.gr00t.base_model import N17
from trainer.gr00t.n17.model import Gr00tN1d7
from trainer.gr00t.n17.processor import QwenProcessor
from trainer.gr00t.weights import resolve_folder
from trainer.training.arguments import SEED, training_arguments
from trainer.training.finetune_trainer import FinetuneTrainer

STATE_DROPOUT = 0.2
"""Upstream's ``--state-dropout-prob``; the model's own default is 0.8."""


class CheckpointProcessor(NamedTuple):
    """What lies beside the weights of a checkpoint: tokenizer and image settings, and how the data are read."""

    qwen: QwenProcessor
    files: ProcessorFiles

    def save_pretrained(self, folder: Path, same_as: Path | None = None) -> None:
        """Write it all; ``same_as`` is a folder that it was saved in before."""
        self.qwen.save_pretrained(folder, same_as)
        self.files.save(folder)


def make_trainer(
    config: FinetuneConfig,
    *,
    resume_from: Path | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    emit: Callable[[Event], None] = lambda _: None,
) -> FinetuneTrainer:
    """The trainer of ``config``, whose base model is of N1.7; ``resume_from`` is the checkpoint to go on from.

    ``train`` and ``save_final`` of what is returned do the rest. Raises ``UsageError`` for what N1.7 is not trained
    with, and as the model, the processor files and the dataset do.
    """
    _refuse_what_has_no_effect(config)
    source = resume_from or resolve_folder(config.base_model_path)
    data_config, tag = get_data_config(config.data_config), config.embodiment_tag
    files = processor_files.read(source)
    slot = files.slot(tag)
    settings = files.settings.model_copy(update={"state_dropout_prob": STATE_DROPOUT})
    dataset = TrainingDataset(
        [Path(path) for path in config.dataset_path],
        data_config,
        settings,
        slot,
        seed=SEED,
        frames=FrameStore(pippa_home() / "cache" / "frames", frame_cache_bytes()),
        alignment=config.video_alignment,
        exclude=[options.exclude_episodes for options in config.data_options],
    )
    model = Gr00tN1d7.from_pretrained(
        source,
        tune_llm=config.tune_llm,
        tune_visual=config.tune_visual,
        tune_projector=config.tune_projector,
        tune_diffusion_model=config.tune_diffusion_model,
        state_dropout_prob=STATE_DROPOUT,
    )
    _check_fit(model, files, slot)
    qwen = QwenProcessor.from_directory(source)
    output_dir = Path(config.output_dir).absolute()
    output_dir.mkdir(parents=True, exist_ok=True)
    meta = dataset.meta
    cameras, joints = sources(meta, data_config)
    known = PolicyConfig(
        data_config=data_config,
        embodiment_tag=tag,
        action_horizon=data_config.action_horizon,
        denoising_steps=model.action_head.num_inference_timesteps,
        video_alignment=config.video_alignment,
        cameras=cameras,
        joints=joints,
        image_sizes={key: meta.camera(key).resolution for key in data_config.video},
        trained_on=dataset.trained_on,
    )
    write_policy_config(output_dir / "experiment_cfg", known)
    set_seed(SEED)
    trained = replace(files, settings=settings).trained_on(tag, data_config, dataset.statistics)
    return FinetuneTrainer(
        model=model,
        args=training_arguments(config, output_dir, generation=N17),
        train_dataset=dataset,
        data_collator=Collator(qwen),
        processor=CheckpointProcessor(qwen, trained),
        experiment_cfg=output_dir / "experiment_cfg",
        callbacks=list(callbacks),
        emit=emit,
    )


def _refuse_what_has_no_effect(config: FinetuneConfig) -> None:
    asked = {
        "--lora-rank": config.lora_rank > 0,
        "--holdout": config.holdout != NO_HOLDOUT,
        "--upstream-exact": config.upstream_exact,
        "--recompute-statistics": config.recompute_statistics,
        "--num-gpus": config.num_gpus > 1,
        "--num-nodes": config.num_nodes > 1,
    }
    if named := [flag for flag, given in asked.items() if given]:
        raise UsageError(f"{N17} is not trained with {', '.join(named)} yet.", "Leave that out.")


def _check_fit(model: Gr00tN1d7, files: ProcessorFiles, slot: int) -> None:
    """Raise ``UsageError`` where the processor files are another model's."""
    values, settings = model.action_head.config, files.settings
    for what, found, wanted in (
        ("max_state_dim", settings.max_state_dim, values.max_state_dim),
        ("max_action_dim", settings.max_action_dim, values.max_action_dim),
        ("max_action_horizon", settings.max_action_horizon, values.action_horizon),
    ):
        if found != wanted:
            raise UsageError(f"{files.where} has {what} {found}; the model has {wanted}.", "Use one model's files.")
    if slot >= values.max_num_embodiments:
        raise UsageError(
            f"{files.where}: the embodiment's slot is {slot}; the model has {values.max_num_embodiments}.",
            "Use one model's files.",
        )
