"""The command line of upstream's ``gr00t/experiment/launch_finetune.py`` (commit 626af89), the engine ``isaac-n17``.

Beside the flags it takes a data config as a Python file, and continues whatever lies in its output folder. It does not
read ``WANDB_PROJECT``, and needs exactly one visible GPU where it trains on one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from trainer.config.argv import to_argv
from trainer.config.n17_config import UPSTREAM_ORDER, N17Config
from trainer.data.configs import get_data_config
from trainer.data.n17.embodiments import registered
from trainer.data.n17.modality_module import to_python

MODALITY_FILE = "pippa_modality_config.py"
"""Upstream appends its folder to ``sys.path`` and imports it by name: one that nothing else has."""


def arguments(config: N17Config, folder: Path, wandb_project: str) -> list[str]:
    """The flags that train ``config``. A data config that upstream lacks is written into ``folder``."""
    data_config, tag = get_data_config(config.data_config), config.embodiment_tag
    file = None
    if registered().get(tag) != data_config:
        file = folder / MODALITY_FILE
        file.write_text(to_python(data_config, tag), encoding="utf-8")
    given = {"modality_config_path": None if file is None else str(file), "wandb_project": wandb_project}
    return to_argv(config.model_copy(update=given), UPSTREAM_ORDER)


def own_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """The variable that shows the script one GPU, as upstream's ``examples/finetune.sh`` sets it: with several it would
    split each batch over them, and fail.
    """
    return {"CUDA_VISIBLE_DEVICES": environ.get("CUDA_VISIBLE_DEVICES", "0")}
