"""What GR00T N1.7 asks of data configs and datasets."""

from __future__ import annotations

from trainer.data.n17 import checks
from trainer.data.n17.configs import get_data_config
from trainer.data.n17.embodiments import PROJECTOR_INDEX, registered
from trainer.data.rules import Rules

RULES = Rules(
    built_in=registered,
    read=get_data_config,
    declared=get_data_config,
    unsupported=lambda _config: [],
    embodiment_tags=PROJECTOR_INDEX,
    cameras_alike=False,
    as_checked=checks.as_checked,
    check=checks.check,
)
