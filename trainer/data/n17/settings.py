"""How a GR00T N1.7 processes its data: ``processor_kwargs`` of the base model's ``processor_config.json``.

A fine-tuning keeps the base model's settings: upstream's command line can change hardly any of them either.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Side = Annotated[int, Field(ge=1, le=4096)]
"""Pixels: what a checkpoint of a stranger asks for has a bound."""
Width = Annotated[int, Field(ge=1, le=4096)]


class ProcessorSettings(BaseModel):
    """The settings, in upstream's names; the defaults are those of nvidia/GR00T-N1.7-3B. Unknown ones stay as they are.

    ``modality_configs`` and ``model_name`` are not among them (``trainer.data.n17.processor_files``).
    """

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())

    image_crop_size: tuple[Side, Side] | None = (230, 230)
    image_target_size: tuple[Side, Side] | None = (256, 256)
    """These two count where ``shortest_image_edge`` is not set, or ``use_albumentations`` is not."""
    use_albumentations: bool = True
    random_rotation_angle: int | None = None
    color_jitter_params: dict[str, float] | None = None
    """``brightness``, ``contrast``, ``saturation``, ``hue``."""
    shortest_image_edge: Side | None = 256
    crop_fraction: Annotated[float, Field(gt=0, le=1)] | None = 0.95
    letter_box_transform: bool = False
    """Black bars make every image square. Upstream did so always until May 2026; the published models want none."""
    formalize_language: bool = True
    max_state_dim: Width = 132
    max_action_dim: Width = 132
    max_action_horizon: Annotated[int, Field(ge=1, le=1024)] = 40
    use_percentiles: bool = True
    """Normalise by the 1 % and 99 % quantiles, not by minimum and maximum; relative actions never."""
    clip_outliers: bool = True
    apply_sincos_state_encoding: bool = False
    use_relative_action: bool = True
    exclude_state: bool = False
    state_dropout_prob: Annotated[float, Field(ge=0, le=1)] = 0.0
    upstream_exact: bool = Field(default=False, exclude=True)
    """Clip z-scores of actions to [-1, 1] as upstream does, which cuts off a third of them for good."""
