"""A checkpoint's files as upstream's classes read them, typed from the reference (4.5, 7.1) and strict.

Upstream itself ignores fields it doesn't know; these stand-ins know ours (``eagle_config``, ``upstream_exact``) and
nothing else, so that a field that is renamed, retyped or lost shows.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


class Backbone(Strict):
    eagle_path: str
    load_bf16: bool
    project_to_dim: int | None
    reproject_vision: bool
    select_layer: int
    tune_llm: bool
    tune_visual: bool
    use_flash_attention: bool


class Blocks(Strict):
    attention_head_dim: int
    dropout: float
    final_dropout: bool
    num_attention_heads: int
    num_layers: int
    positional_embeddings: None


class Diffusion(Blocks):
    cross_attention_dim: int
    interleave_self_attention: bool
    norm_type: Literal["ada_norm"]
    output_dim: int


class ActionHead(Strict):
    action_dim: int
    action_horizon: int
    add_pos_embed: bool
    backbone_embedding_dim: int
    diffusion_model_cfg: Diffusion
    hidden_size: int
    input_embedding_dim: int
    max_action_dim: int
    max_num_embodiments: int = 32
    max_seq_len: int = 1024
    max_state_dim: int
    model_dtype: str
    noise_beta_alpha: float
    noise_beta_beta: float
    noise_s: float
    num_inference_timesteps: int
    num_target_vision_tokens: int
    num_timestep_buckets: int
    tune_diffusion_model: bool
    tune_projector: bool
    use_vlln: bool
    vl_self_attention_cfg: Blocks


class Config(Strict):
    action_dim: int
    action_head_cfg: ActionHead
    action_horizon: int
    architectures: tuple[Literal["GR00T_N1_5"]]
    attn_implementation: None
    backbone_cfg: Backbone
    compute_dtype: str
    eagle_config: dict
    hidden_size: int
    model_dtype: str
    model_type: Literal["gr00t_n1_5"]
    torch_dtype: Literal["bfloat16", "float32"]
    transformers_version: str
    upstream_exact: bool
    use_cache: bool = False
    """Which transformers' Trainer sets, upstream's too."""


Number = Annotated[float, Field(allow_inf_nan=False)]


class Statistics(Strict):
    max: list[Number]
    min: list[Number]
    mean: list[Number]
    std: list[Number]
    q01: list[Number]
    q99: list[Number]


class Camera(Strict):
    resolution: tuple[int, int]
    channels: int
    fps: float


class StateAction(Strict):
    absolute: bool
    rotation_type: str | None
    shape: tuple[int]
    continuous: bool


class Modalities(Strict):
    video: dict[str, Camera]
    state: dict[str, StateAction]
    action: dict[str, StateAction]


class KeyStatistics(Strict):
    state: dict[str, Statistics]
    action: dict[str, Statistics]


class Metadata(Strict):
    statistics: KeyStatistics
    modalities: Modalities
    embodiment_tag: Literal["gr1", "oxe_droid", "agibot_genie1", "new_embodiment"]
