"""Whether a base model of N1.5 and a data config belong together: asked before torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from trainer.config.finetune_config import FinetuneConfig
from trainer.data.configs import get_data_config
from trainer.errors import UsageError
from trainer.generation import N15, generation_in
from trainer.gr00t.base_model import read_config_json
from trainer.gr00t.n15.sections import Sections


def require_fit(config: FinetuneConfig, base_model: Path, datasets: Iterable[Path] = ()) -> None:  # noqa: ARG001
    """Raise ``UsageError`` where the base model in ``base_model`` takes states of another width than the data config
    has. Data that are wider than the data config says are found by the dataset's check.
    """
    if generation_in(base_model) is None:  # a model without a type: the engine says so
        return
    data_config = get_data_config(config.data_config)
    width = read_config_json(base_model, N15, Sections.of).action_head.max_state_dim
    if data_config.max_state_dim != width:
        raise UsageError(
            f"The data config {data_config} has max_state_dim {data_config.max_state_dim}; "
            f"{base_model} takes states of width {width}.",
            f"Set max_state_dim to {width}: states are padded to it.",
        )
