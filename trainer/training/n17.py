"""A training of GR00T N1.7: base model, data and processor files, put together for ``FinetuneTrainer``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from transformers import TrainerCallback, set_seed

from trainer.config.finetune_config import FinetuneConfig
from trainer.config.n17_config import N17Config
from trainer.data.checks import Checked
from trainer.data.configs import get_data_config
from trainer.data.n17.collate import Collator
from trainer.data.n17.dataset import TrainingDataset
from trainer.data.n17.finish import finish_images
from trainer.data.n17.processor_files import ProcessorFiles
from trainer.data.n17.settings import ProcessorSettings
from trainer.data.policy_config import write_policy_config
from trainer.events import Event
from trainer.gr00t.base_model import resolve_folder
from trainer.gr00t.n17.compatibility import require_fit
from trainer.gr00t.n17.model import Gr00tN1d7
from trainer.gr00t.n17.processor import QwenProcessor
from trainer.training.adapters import add_adapters
from trainer.training.arguments import SEED, training_arguments
from trainer.training.finetune_trainer import FinetuneTrainer
from trainer.training.loading import FrameCache, policy_config, prepare_frames


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
    checked: Sequence[Checked] = (),
    *,
    resume_from: Path | None = None,
    callbacks: Callable[[], list[TrainerCallback]] = list,
    emit: Callable[[Event], None] = lambda _: None,
) -> FinetuneTrainer:
    """The trainer of ``config``, an ``N17Config``; ``resume_from`` is the checkpoint to continue from.

    ``checked`` is what the check found of each dataset. ``train`` and ``save_final`` of what is returned do the rest.
    Raises as the model, the processor files and the dataset do.
    """
    if not isinstance(config, N17Config):
        raise TypeError(f"The arguments are those of {config.generation}.")
    output_dir = Path(config.output_dir).absolute()
    output_dir.mkdir(parents=True, exist_ok=True)
    # A resumed model is loaded from its checkpoint; adapters were merged into that one, so they need the base model.
    source = resume_from if resume_from and not config.lora_rank else resolve_folder(config.base_model_path)
    data_config, tag = get_data_config(config.data_config), config.embodiment_tag
    paths = [Path(path) for path in config.dataset_path]
    files = require_fit(config, source, paths)
    dataset = TrainingDataset(
        paths,
        data_config,
        settings := _settings(config, files),
        files.slot(tag),
        seed=SEED,
        frames=FrameCache(config).store(),
        alignment=config.video_alignment,
        exclude=[options.exclude_episodes for options in config.data_options],
        known=[each.statistics for each in checked] or None,
        holdout=config.holdout,
    )
    prepare_frames(dataset.frames, dataset.held_out, emit)
    model = _model(config, source)
    qwen = QwenProcessor.from_directory(source)
    sizes = {key: dataset.meta.camera(key).resolution for key in data_config.video}
    known = policy_config(config, dataset, model.action_head.num_inference_timesteps, sizes)
    write_policy_config(output_dir / "experiment_cfg", known)
    set_seed(SEED)
    add_adapters(model, config, resume_from)
    return FinetuneTrainer(
        model=model,
        args=training_arguments(config, output_dir, dataset.sample_bytes),
        train_dataset=dataset,
        data_collator=Collator(qwen),
        processor=CheckpointProcessor(
            qwen, replace(files, settings=settings).trained_on(tag, data_config, dataset.statistics)
        ),
        experiment_cfg=output_dir / "experiment_cfg",
        callbacks=callbacks(),
        emit=emit,
        lora=config.lora_rank > 0,
        shards=config.shards,
        kept=config.save_total_limit,
        finish_images=finish_images,
    )


def _settings(config: N17Config, files: ProcessorFiles) -> ProcessorSettings:
    """The base model's processing, with what the command line changes of it."""
    changed = {
        "state_dropout_prob": config.state_dropout_prob,
        "random_rotation_angle": config.random_rotation_angle,
        "color_jitter_params": config.color_jitter_params,
    }
    given = {name: value for name, value in changed.items() if value is not None}
    return files.settings.model_copy(update={**given, "upstream_exact": config.upstream_exact})


def _model(config: N17Config, source: Path) -> Gr00tN1d7:
    """The model in the folder ``source``."""
    model = Gr00tN1d7.from_pretrained(
        source,
        tune_llm=config.tune_llm,
        tune_visual=config.tune_visual,
        tune_projector=config.tune_projector,
        tune_diffusion_model=config.tune_diffusion_model,
        state_dropout_prob=config.state_dropout_prob,
    )
    if config.upstream_exact:  # in its checkpoints as well: they act as they were trained
        model.config.checked = model.config.checked.model_copy(update={"upstream_exact": True})
        model.action_head.config = model.config.checked
    return model
