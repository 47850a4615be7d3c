"""What a checkpoint of GR00T N1.5 knows of itself."""

from __future__ import annotations

import json
from pathlib import Path

from trainer.data.data_config import DataConfig
from trainer.data.metadata import read_metadata
from trainer.data.policy_config import PolicyConfig, agreed_data_config, agreed_tag, recorded_data_config
from trainer.generation import N15
from trainer.gr00t.checkpoint import Checkpoint


def read(
    folder: Path,
    name: str,
    *,
    known: PolicyConfig | None,
    recorded: str | DataConfig | None,
    given: DataConfig | None,
    tag: str | None,
    given_tag: str | None,
) -> Checkpoint:
    """The checkpoint in ``folder``, which people call ``name``.

    It was trained with ``tag``, and as it says itself (``known``) or its run (``recorded``) with that data config;
    ``given`` and ``given_tag`` are what somebody asks for. Raises ``UsageError`` where these contradict each other.
    """
    config = known.data_config if known else recorded_data_config(recorded, name) if recorded else None
    config = agreed_data_config(config, given, name)
    tag = agreed_tag(tag, given_tag, name, _tags(folder))
    metadata = read_metadata(folder / "experiment_cfg", tag)
    described = metadata.modalities
    widths = {f"state.{key}": each.shape[0] for key, each in described.state.items()}
    widths |= {f"action.{key}": each.shape[0] for key, each in described.action.items()}
    sizes = {key: camera.resolution for key, camera in described.video.items()}
    return Checkpoint(folder, N15, config, tag, known, widths, sizes, metadata)


def _tags(folder: Path) -> dict[str, object]:
    """The embodiment tags with statistics in ``experiment_cfg/metadata.json``; none for a file that is damaged."""
    try:
        document = json.loads((folder / "experiment_cfg" / "metadata.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
