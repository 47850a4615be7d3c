"""What a checkpoint of GR00T N1.7 knows of itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from trainer.data.data_config import DataConfig
from trainer.data.n17 import processor_files
from trainer.data.n17.embodiments import tag_of
from trainer.data.policy_config import PolicyConfig, agreed_data_config, agreed_tag
from trainer.generation import N17
from trainer.gr00t.checkpoint import Checkpoint


def read(
    folder: Path,
    name: str,
    *,
    known: PolicyConfig | None,
    recorded: str | DataConfig | None,  # noqa: ARG001 - every checkpoint says it itself
    given: DataConfig | None,
    tag: str | None,
    given_tag: str | None,
) -> Checkpoint:
    """See ``trainer.gr00t.n15.checkpoint``. The processor's files beside the weights decide how the embodiment is
    read, as they do upstream.
    """
    files = processor_files.read(folder)
    described = {each: config for each, config in files.modality_configs.items() if each in files.statistics}
    tag = agreed_tag(tag, tag_of(given_tag) if given_tag else None, name, described)
    config = files.data_config(tag)
    if known:
        config = replace(config, name=known.data_config.name)
    if given:  # its padded widths are of N1.5 alone
        given = replace(given, max_state_dim=config.max_state_dim, max_action_dim=config.max_action_dim)
    statistics = files.of_tag(tag)
    widths = {f"state.{key}": each.shape[-1] for key, each in statistics.state.items()}
    widths |= {f"action.{key}": each.shape[-1] for key, each in statistics.action.items()}
    sizes = known.image_sizes if known else {}
    return Checkpoint(folder, N17, agreed_data_config(config, given, name), tag, known, widths, sizes)
