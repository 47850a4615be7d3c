"""Whether a base model of N1.7, its processor files, a data config and datasets belong together: asked before torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from trainer.config.finetune_config import FinetuneConfig
from trainer.data.configs import get_data_config
from trainer.data.dataset_meta import DatasetMeta
from trainer.data.n17 import processor_files
from trainer.data.n17.processor_files import ProcessorFiles
from trainer.errors import UsageError
from trainer.generation import N17
from trainer.gr00t.base_model import read_config_json
from trainer.gr00t.n17.sections import ModelConfig


def require_fit(config: FinetuneConfig, base_model: Path, datasets: Iterable[Path] = ()) -> ProcessorFiles:
    """The processor files in the folder ``base_model``.

    Raises ``UsageError`` that names file and key where they are another model's, lack the embodiment tag, or take fewer
    dimensions or steps than the data config has in one of ``datasets``.
    """
    data_config = get_data_config(config.data_config)
    values = read_config_json(base_model, N17, ModelConfig.model_validate)
    files = processor_files.read(base_model)
    settings, slot = files.settings, files.slot(config.embodiment_tag)
    for name, found, wanted in (
        ("max_state_dim", settings.max_state_dim, values.max_state_dim),
        ("max_action_dim", settings.max_action_dim, values.max_action_dim),
        ("max_action_horizon", settings.max_action_horizon, values.action_horizon),
    ):
        if found != wanted:
            raise UsageError(
                f"{files.where} has {name} {found}; {base_model / 'config.json'} means {wanted}.",
                "Use one model's files.",
            )
    if slot >= values.max_num_embodiments:
        raise UsageError(
            f"{Path(files.where).parent / processor_files.EMBODIMENTS}: the slot of {config.embodiment_tag} is {slot}; "
            f"the model has {values.max_num_embodiments}.",
            "Use one model's files.",
        )
    if data_config.action_horizon > settings.max_action_horizon:
        raise UsageError(
            f"{data_config.name} predicts {data_config.action_horizon} steps; {files.where} has max_action_horizon "
            f"{settings.max_action_horizon}.",
            f"Declare an action_horizon of at most {settings.max_action_horizon}.",
        )
    for path in datasets:
        modality = DatasetMeta.load(path).modality
        for kind, limit in (("state", settings.max_state_dim), ("action", settings.max_action_dim)):
            entries = getattr(modality, kind)
            width = sum(
                (entries[feature.key].end - entries[feature.key].start)
                * (2 if feature.sin_cos and settings.apply_sincos_state_encoding else 1)
                for feature in getattr(data_config, kind)
            )
            if width > limit:
                raise UsageError(
                    f"The {kind} keys of {data_config.name} have {width} dimensions; {files.where} has max_{kind}_dim "
                    f"{limit}.",
                    f"Use a data config with fewer {kind} keys.",
                )
    return files
