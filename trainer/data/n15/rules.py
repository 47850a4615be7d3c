"""What GR00T N1.5 asks of data configs and datasets."""

from __future__ import annotations

from trainer.data.configs import DATA_CONFIGS, PROJECTOR_INDEX, declared, get_data_config
from trainer.data.data_config import TASK, DataConfig
from trainer.data.rules import Rules


def unsupported(config: DataConfig) -> list[str]:
    """What of ``config`` N1.5 can't do, as one would say it; empty for most."""
    found = [f"action.{feature.key} relative to a state" for feature in config.action if feature.relative_to]
    if config.video_delta_indices != (0,):
        found.append(f"video_delta_indices {list(config.video_delta_indices)}")
    if config.language == TASK:
        found.append(f"language {TASK}")
    return found


RULES = Rules(
    built_in=lambda: DATA_CONFIGS,
    read=get_data_config,
    declared=declared,
    unsupported=unsupported,
    embodiment_tags=PROJECTOR_INDEX,
    cameras_alike=True,
    as_checked=lambda config: config,
    check=lambda _meta, _config: ([], []),
)
