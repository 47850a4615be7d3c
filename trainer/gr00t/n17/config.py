"""``Gr00tN1d7Config``: the ``config.json`` of a GR00T N1.7 checkpoint, in upstream's fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from trainer.errors import UsageError
from trainer.generation import N17
from trainer.gr00t.base_model import read_config_json
from trainer.gr00t.n17.sections import ModelConfig


class Gr00tN1d7Config(PreTrainedConfig):
    """Configuration of a GR00T N1.7 model, as transformers wants it; ``checked`` gives the values, typed.

    Absent values have the defaults of upstream's class, which are not those of the published model. Raises pydantic's
    ``ValidationError`` for values that contradict each other.
    """

    model_type = N17.model_type

    def __post_init__(self, **kwargs: Any) -> None:
        given = {name: kwargs.pop(name) for name in ModelConfig.model_fields if name in kwargs}
        self.checked = ModelConfig.model_validate(given)
        super().__post_init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        """All values, those of ``checked`` as upstream writes them: beside the others."""
        values = super().to_dict()
        return {**{name: value for name, value in values.items() if name != "checked"}, **self.checked.model_dump()}

    def to_diff_dict(self) -> dict[str, Any]:
        """What is written: everything, since another version's defaults may differ from ours.

        But the width that the diffusion transformer attends to: upstream gives it beside these values, and Python
        refuses it twice.
        """
        values = self.checked.model_dump()
        del values["diffusion_model_cfg"]["cross_attention_dim"]
        return {**values, "model_type": self.model_type}


def config_document(config: Gr00tN1d7Config, dtype: str) -> dict[str, Any]:
    """``config.json`` of ``config``, with its first weight's ``dtype``."""
    return {**config.to_diff_dict(), "architectures": ["Gr00tN1d7"], "dtype": dtype}


def read_config(folder: Path) -> Gr00tN1d7Config:
    """The configuration in ``folder/config.json``.

    Raises ``UsageError`` when the file is missing, is not JSON, belongs to another kind of model or contradicts itself.
    """
    config = read_config_json(folder, N17, Gr00tN1d7Config.from_dict)
    try:
        config.checked.qwen3_vl_config.qwen3_vl(config.checked.select_layer)
    except Exception as error:  # transformers checks its own configuration, in ways that differ with its version
        raise UsageError(
            f"{folder / 'config.json'}: qwen3_vl_config describes no Qwen3-VL ({error}).",
            "Download or copy the model again.",
        ) from error
    return config
