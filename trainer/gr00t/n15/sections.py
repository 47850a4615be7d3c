"""The sections of a GR00T N1.5's ``config.json``, in upstream's fields, with the official model's sizes as defaults.

No torch at import: the sizes also tell what a training will need, and that is asked where there is no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field

from trainer.generation import N15, Generation
from trainer.gr00t.parts.sections import DiTConfig, Section, TransformerConfig

if TYPE_CHECKING:
    import torch
    from transformers import Qwen3Config, SiglipVisionConfig


class BackboneConfig(Section):
    """``backbone_cfg``: how the features are taken from the Eagle model."""

    eagle_path: str = "NVEagle/eagle_er-qwen3_1_7B-Siglip2_400M_stage1_5_128gpu_er_v7_1mlp_nops"
    load_bf16: bool = False
    project_to_dim: int | None = None
    reproject_vision: bool = False
    select_layer: int = Field(default=12, ge=1)
    tune_llm: bool = False
    tune_visual: bool = True
    use_flash_attention: bool = True


class ActionHeadConfig(Section):
    """``action_head_cfg``: the flow-matching action head."""

    action_dim: int = Field(default=32, ge=1)
    action_horizon: int = Field(default=16, ge=1)
    add_pos_embed: bool = True
    backbone_embedding_dim: int = 2048
    diffusion_model_cfg: DiTConfig = DiTConfig()
    hidden_size: int = 1024
    input_embedding_dim: int = 1536
    max_action_dim: int = 32
    max_num_embodiments: int = Field(default=32, ge=1)
    max_seq_len: int = 1024
    max_state_dim: int = 64
    model_dtype: str = "float32"
    noise_beta_alpha: float = 1.5
    noise_beta_beta: float = 1.0
    noise_s: float = 0.999
    num_inference_timesteps: int = Field(default=4, ge=1)
    num_target_vision_tokens: int = 32
    num_timestep_buckets: int = 1000
    tune_diffusion_model: bool = True
    tune_projector: bool = True
    use_vlln: bool = True
    vl_self_attention_cfg: TransformerConfig = TransformerConfig()


class EagleConfig(Section):
    """``eagle_config``: sizes of the vision tower and the language model, in the keys of upstream's packaged file."""

    text_config: dict[str, Any]
    vision_config: dict[str, Any]
    image_token_index: int = 151669
    force_image_size: int = 224
    mlp_connector_layers: int = 1
    select_layer: int = -1
    use_pixel_shuffle: bool = False
    torch_dtype: str = "bfloat16"
    """Dtype of the backbone's weights in memory, whatever the file holds (upstream: always bfloat16)."""

    @property
    def width(self) -> int:
        """Bytes of a weight in memory."""
        return 4 if self.torch_dtype == "float32" else 2

    @property
    def image_tokens(self) -> int:
        """Tokens one image becomes in the language model's sequence."""
        return (self.vision_config["image_size"] // self.vision_config["patch_size"]) ** 2

    @property
    def dtype(self) -> torch.dtype:
        """``torch_dtype`` as torch's own type."""
        import torch

        return getattr(torch, self.torch_dtype)

    def qwen3(self, layers: int, attention: str) -> Qwen3Config:
        """The language model's configuration, cut to its first ``layers`` layers, with ``attention`` as its kernel."""
        from transformers import Qwen3Config

        cut = {"num_hidden_layers": layers, "layer_types": None, "use_cache": False, "attn_implementation": attention}
        text: dict[str, Any] = {**self.text_config, **cut}
        return Qwen3Config(**text)

    def siglip(self) -> SiglipVisionConfig:
        """The vision tower's configuration."""
        from transformers import SiglipVisionConfig

        vision: dict[str, Any] = {**self.vision_config, "attn_implementation": "sdpa"}
        return SiglipVisionConfig(**vision)


OFFICIAL_EAGLE = EagleConfig(
    text_config={
        "model_type": "qwen3",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "max_position_embeddings": 40960,
        "num_attention_heads": 16,
        "num_hidden_layers": 28,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "vocab_size": 151680,
    },
    vision_config={
        "model_type": "siglip_vision_model",
        "attention_dropout": 0.0,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 1152,
        "image_size": 224,
        "intermediate_size": 4304,
        "layer_norm_eps": 1e-6,
        "num_attention_heads": 16,
        "num_channels": 3,
        "num_hidden_layers": 27,
        "patch_size": 14,
    },
)
"""The backbone of nvidia/GR00T-N1.5-3B."""


class Sections(NamedTuple):
    """All sections of a ``config.json``."""

    backbone: BackboneConfig
    action_head: ActionHeadConfig
    eagle: EagleConfig

    @property
    def generation(self) -> Generation:
        """Whose sizes these are."""
        return N15

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Sections:
        """Those of a whole ``config.json``, or of what it says of them. Raises pydantic's ``ValidationError``."""
        return cls(
            BackboneConfig.model_validate(values.get("backbone_cfg") or {}),
            ActionHeadConfig.model_validate(values.get("action_head_cfg") or {}),
            EagleConfig.model_validate(values.get("eagle_config") or OFFICIAL_EAGLE),
        )


TINY_WIDTH = 96
TINY_PATCH = 28
TINY_VOCABULARY = 323
"""Tokens of the tiny model's tokenizer, which ``trainer.gr00t.n15.tiny`` makes: 256 bytes, some words and their parts,
the special tokens."""


def tiny_sections() -> dict[str, Any]:
    """Sizes of the tiny model: official dimensions at the robot's side, small ones everywhere else."""
    # No dropout: so small a model has nothing to regularise.
    blocks = {"num_attention_heads": 4, "attention_head_dim": TINY_WIDTH // 4, "dropout": 0.0}
    return {
        "backbone_cfg": {"eagle_path": "tiny", "select_layer": 2},
        "eagle_config": {
            "torch_dtype": "float32",
            "text_config": {
                "head_dim": 32,
                "hidden_size": TINY_WIDTH,
                "intermediate_size": 2 * TINY_WIDTH,
                "num_attention_heads": 4,
                "num_hidden_layers": 2,
                "num_key_value_heads": 2,
                "rope_theta": 1000000,
                "vocab_size": TINY_VOCABULARY,
            },
            "vision_config": {
                "hidden_size": 64,
                "image_size": 224,
                "intermediate_size": 128,
                "num_attention_heads": 4,
                "num_hidden_layers": 2,
                "patch_size": TINY_PATCH,
            },
        },
        "action_head_cfg": {
            "backbone_embedding_dim": TINY_WIDTH,
            "hidden_size": 128,
            "input_embedding_dim": TINY_WIDTH,
            "max_seq_len": 64,
            "num_target_vision_tokens": 2,
            "diffusion_model_cfg": {"num_layers": 4, "cross_attention_dim": TINY_WIDTH, "output_dim": 128, **blocks},
            "vl_self_attention_cfg": {"num_layers": 1, **blocks},
        },
    }


def read(values: Mapping[str, Any]) -> Sections:
    """The sizes that a ``config.json`` says. Raises pydantic's ``ValidationError``."""
    return Sections.of(values)


def official() -> Sections:
    """The sizes of NVIDIA's base model."""
    return Sections.of({})


def tiny() -> Sections:
    """The sizes of the generated one."""
    return Sections.of(tiny_sections())


def longest_horizon(_values: Mapping[str, Any]) -> None:
    """None: the action head is resized to what the data config asks for."""
