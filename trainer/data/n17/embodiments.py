"""Embodiment tags of GR00T N1.7 and the data configs upstream registers for them.

Follows ``gr00t/data/embodiment_tags.py``, ``gr00t/configs/data/embodiment_configs.py`` and, for the SO-100,
``examples/SO100/so100_config.py``. Unlike N1.5's, a data config belongs to a tag, not to a robot's flag.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

from trainer.data.config_file import read_file
from trainer.data.data_config import DataConfig
from trainer.errors import UsageError

PROJECTOR_INDEX: Mapping[str, int] = MappingProxyType(
    {
        "oxe_droid_relative_eef_relative_joint": 24,
        "xdof_relative_eef_relative_joint": 27,
        "xdof_relative_eef_relative_joint_subtask": 27,
        "real_g1_relative_eef_relative_joints": 25,
        "real_r1_pro_sharpa_relative_eef": 26,
        "real_r1_pro_sharpa_relative_eef_human": 26,
        "real_r1_pro_sharpa_relative_eef_maxinsights": 26,
        "real_r1_pro_sharpa_relative_eef_mecka": 26,
        "unitree_g1_full_body_with_waist_height_nav_cmd": 25,
        "unitree_g1_sonic": 11,
        "simpler_env_google": 0,
        "simpler_env_widowx": 1,
        "libero_sim": 2,
        "new_embodiment": 10,
        "robocasa_panda_omron": 10,
        "robocasa_gr1_tabletop": 10,
    }
)
"""Embodiment tag to the slot of the action head's per-embodiment weights. A checkpoint's own table comes first."""

_NAMES = MappingProxyType(
    {
        "oxe_droid_relative_eef_relative_joint": "oxe_droid_relative_eef_relative_joint",
        "xdof": "xdof_relative_eef_relative_joint",
        "xdof_subtask": "xdof_relative_eef_relative_joint_subtask",
        "real_g1": "real_g1_relative_eef_relative_joints",
        "real_r1_pro_sharpa": "real_r1_pro_sharpa_relative_eef",
        "real_r1_pro_sharpa_human": "real_r1_pro_sharpa_relative_eef_human",
        "real_r1_pro_sharpa_maxinsights": "real_r1_pro_sharpa_relative_eef_maxinsights",
        "real_r1_pro_sharpa_mecka": "real_r1_pro_sharpa_relative_eef_mecka",
        "unitree_g1": "unitree_g1_full_body_with_waist_height_nav_cmd",
        "libero_panda": "libero_sim",
    }
)
"""Names of upstream's enum that are not their values."""

_FOLDER = Path(__file__).parent / "data_configs"


def tag_of(name: str) -> str:
    """The tag that ``name`` means, by upstream's name or value in any case. Raises ``UsageError`` with the nearest."""
    tag = _NAMES.get(name.lower(), name.lower())
    if tag in PROJECTOR_INDEX:
        return tag
    near = difflib.get_close_matches(name.lower(), [*PROJECTOR_INDEX, *_NAMES], n=1)
    raise UsageError(
        f"No embodiment tag of GR00T N1.7 is called {name!r}.",
        (f"Did you mean {near[0]}? " if near else "") + f"There are {', '.join(PROJECTOR_INDEX)}.",
    )


def name_of(tag: str) -> str:
    """The name of ``tag`` in upstream's enum."""
    return next((name for name, value in _NAMES.items() if value == tag), tag).upper()


@cache
def registered() -> Mapping[str, DataConfig]:
    """The data configs that upstream registers, by embodiment tag; ``so100``, the one of its example; and
    ``gr1_arms_only`` for Isaac-GR00T's older demo data, with actions relative as in ``robocasa_gr1_tabletop``.
    """
    return MappingProxyType({file.stem: read_file(file) for file in sorted(_FOLDER.glob("*.toml"))})
