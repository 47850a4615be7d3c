"""``GR00TN15Config``: the ``config.json`` of a GR00T N1.5 checkpoint, in upstream's fields.

Upstream keeps the backbone's sizes in its package (``eagle2_hg_model/config.json``), not in the checkpoint. Here they
are one more section of ``config.json``, ``eagle_config``; a checkpoint without it has the official 3B model's sizes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from trainer.generation import N15
from trainer.gr00t.base_model import read_config_json
from trainer.gr00t.n15.sections import OFFICIAL_EAGLE, ActionHeadConfig, BackboneConfig, EagleConfig


class GR00TN15Config(PreTrainedConfig):
    """Configuration of a GR00T N1.5 model; the defaults are those of nvidia/GR00T-N1.5-3B.

    The sections are kept as plain dictionaries, as upstream reads and writes them; ``backbone``, ``action_head`` and
    ``eagle`` give them checked and with defaults filled in. Raises ``UsageError`` for a section that can't be built.
    """

    model_type = N15.model_type

    backbone_cfg: dict[str, Any] | None = None
    action_head_cfg: dict[str, Any] | None = None
    eagle_config: dict[str, Any] | None = None
    action_horizon: int = 16
    action_dim: int = 32
    hidden_size: int = 2048
    model_dtype: str = "float32"
    compute_dtype: str = "float32"
    upstream_exact: bool = False
    """Let padding tokens take part in attention as they do upstream, so that a sample's result depends on the prompts
    it is batched with. ``backbone_cfg.use_flash_attention`` then tells what padding attends to in the language model:
    nothing (true: upstream on a GPU) or every position alike (false: upstream with SDPA attention)."""

    def __post_init__(self, **kwargs: Any) -> None:
        self.backbone_cfg = BackboneConfig.model_validate(self.backbone_cfg or {}).model_dump()
        self.action_head_cfg = ActionHeadConfig.model_validate(self.action_head_cfg or {}).model_dump()
        self.eagle_config = EagleConfig.model_validate(self.eagle_config or OFFICIAL_EAGLE).model_dump()
        super().__post_init__(**kwargs)

    @property
    def backbone(self) -> BackboneConfig:
        """``backbone_cfg``, typed."""
        return BackboneConfig.model_validate(self.backbone_cfg)

    @property
    def action_head(self) -> ActionHeadConfig:
        """``action_head_cfg``, typed."""
        return ActionHeadConfig.model_validate(self.action_head_cfg)

    @property
    def eagle(self) -> EagleConfig:
        """``eagle_config``, typed."""
        return EagleConfig.model_validate(self.eagle_config)


def config_document(config: GR00TN15Config, dtype: str) -> dict[str, Any]:
    """``config.json`` of ``config``, as transformers 4.51 under upstream writes it; ``dtype`` is the first weight's."""
    document = config.to_diff_dict()
    document.pop("dtype", None)
    return {**document, "architectures": ["GR00T_N1_5"], "torch_dtype": dtype, "attn_implementation": None}


def read_config(folder: Path) -> GR00TN15Config:
    """The configuration in ``folder/config.json``.

    Raises ``UsageError`` when the file is missing, is not JSON, or belongs to another kind of model.
    """
    return read_config_json(folder, N15, GR00TN15Config.from_dict)
