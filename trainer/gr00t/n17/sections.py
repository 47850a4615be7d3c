"""The values of a GR00T N1.7's ``config.json``, in upstream's fields and with upstream's defaults.

Upstream writes only what differs from its class's defaults, so these are the code's (commit 626af89) and not the
published model's: a file without ``select_layer`` means 12 layers, while the 3B has 16.

Upstream keeps Qwen3-VL's sizes in the gated backbone's repository, not in the checkpoint. Here they are one more
section, ``qwen3_vl_config``; a checkpoint without it has those of Qwen3-VL-2B. No torch at import.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from trainer.generation import N17, Generation
from trainer.gr00t.parts.sections import DiTConfig, Section, TransformerConfig

if TYPE_CHECKING:
    from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLConfig

BACKBONE = "nvidia/Cosmos-Reason2-2B"
"""The gated repository that upstream loads the backbone's sizes and tokenizer from."""


class QwenConfig(Section):
    """``qwen3_vl_config``: sizes of the vision tower and the language model, in the keys of Qwen's own config.json."""

    text_config: dict[str, Any]
    vision_config: dict[str, Any]
    image_token_id: int = 151655
    video_token_id: int = 151656
    vision_start_token_id: int = 151652
    vision_end_token_id: int = 151653

    @model_validator(mode="after")
    def _has_sizes(self) -> QwenConfig:
        text, vision = self.text_config, self.vision_config
        for name in ("hidden_size", "num_hidden_layers"):
            if not isinstance(text.get(name), int) or text[name] < 1:
                raise ValueError(f"text_config.{name} is {text.get(name)!r}, not a number of 1 or more")
        if "rope_parameters" not in text and not (isinstance(text.get("rope_scaling"), dict) and "rope_theta" in text):
            raise ValueError("text_config has neither rope_parameters nor rope_scaling and rope_theta")
        if not isinstance(vision.get("deepstack_visual_indexes"), list):
            raise ValueError("vision_config.deepstack_visual_indexes is not a list")
        return self

    @property
    def width(self) -> int:
        """Dimensions of the features."""
        return self.text_config["hidden_size"]

    @property
    def deepstack_levels(self) -> int:
        """How many of the vision tower's layers are added to the language model's first ones."""
        return len(self.vision_config["deepstack_visual_indexes"])

    @property
    def merge_size(self) -> int:
        """Patches each way that become a token of the language model."""
        return self.vision_config.get("spatial_merge_size", 2)

    @property
    def positions_side(self) -> int:
        """Sides of the square of learned positions that images are laid over."""
        return isqrt(self.vision_config.get("num_position_embeddings", 2304))

    def qwen3_vl(self, layers: int) -> Qwen3VLConfig:
        """The configuration of transformers, with the language model cut to its first ``layers`` layers."""
        from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLConfig

        text = {name: value for name, value in self.text_config.items() if name not in ("rope_scaling", "rope_theta")}
        if "rope_parameters" not in text:  # transformers 4 says it in two fields
            theta = self.text_config["rope_theta"]
            text["rope_parameters"] = {**self.text_config["rope_scaling"], "rope_theta": theta}
        config = Qwen3VLConfig(
            text_config={**text, "num_hidden_layers": layers, "use_cache": False},
            vision_config=dict(self.vision_config),
            image_token_id=self.image_token_id,
            video_token_id=self.video_token_id,
            vision_start_token_id=self.vision_start_token_id,
            vision_end_token_id=self.vision_end_token_id,
        )
        config._attn_implementation = "sdpa"
        return config


OFFICIAL_QWEN = QwenConfig(
    text_config={
        "attention_bias": False,
        "attention_dropout": 0.0,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "max_position_embeddings": 262144,
        "num_attention_heads": 16,
        "num_hidden_layers": 28,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-6,
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
        "rope_theta": 5000000,
        "vocab_size": 151936,
    },
    vision_config={
        "deepstack_visual_indexes": [5, 11, 17],
        "depth": 24,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 1024,
        "in_channels": 3,
        "intermediate_size": 4096,
        "num_heads": 16,
        "num_position_embeddings": 2304,
        "out_hidden_size": 2048,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
)
"""Qwen3-VL-2B, which nvidia/Cosmos-Reason2-2B is."""


class ModelConfig(Section):
    """The whole ``config.json``, flat as upstream's, with ``qwen3_vl_config`` beside it."""

    @property
    def generation(self) -> Generation:
        """Whose sizes these are."""
        return N17

    model_name: str = BACKBONE
    backbone_embedding_dim: int = 2048
    select_layer: int = Field(default=12, ge=1)
    """Layers of the language model that are kept; the features are the last one's output."""
    tune_llm: bool = False
    tune_visual: bool = False
    tune_top_llm_layers: int = Field(default=0, ge=0)
    tune_projector: bool = True
    tune_diffusion_model: bool = True
    tune_vlln: bool = True
    max_state_dim: int = Field(default=132, ge=1)
    max_action_dim: int = Field(default=132, ge=1)
    action_horizon: int = Field(default=40, ge=1)
    hidden_size: int = Field(default=1024, ge=1)
    input_embedding_dim: int = Field(default=1536, ge=1)
    state_history_length: int = Field(default=1, ge=1)
    add_pos_embed: bool = True
    use_vlln: bool = True
    max_seq_len: int = Field(default=1024, ge=1)
    use_alternate_vl_dit: bool = True
    attend_text_every_n_blocks: int = Field(default=2, ge=1)
    diffusion_model_cfg: DiTConfig = DiTConfig()
    vl_self_attention_cfg: TransformerConfig | None = None
    use_vl_self_attention: bool = True
    num_inference_timesteps: int = Field(default=4, ge=1)
    noise_beta_alpha: float = Field(default=1.5, gt=0)
    noise_beta_beta: float = Field(default=1.0, gt=0)
    noise_s: float = 0.999
    num_timestep_buckets: int = Field(default=1000, ge=1)
    state_dropout_prob: float = Field(default=0.8, ge=0, le=1)
    max_num_embodiments: int = Field(default=32, ge=1)
    upstream_exact: bool = False
    """Let padding tokens take part in the attention over the features, as they do upstream, so that a sample's result
    depends on the prompts it is batched with."""
    qwen3_vl_config: QwenConfig = OFFICIAL_QWEN

    @model_validator(mode="after")
    def _fits_together(self) -> ModelConfig:
        layers, blocks = self.qwen3_vl_config.text_config["num_hidden_layers"], self.mixing
        if self.select_layer > layers:
            raise ValueError(f"select_layer is {self.select_layer}, but the language model has {layers} layers")
        for name, part, width in (
            ("backbone_embedding_dim", "the language model", self.qwen3_vl_config.width),
            ("backbone_embedding_dim", "vl_self_attention_cfg", blocks and blocks.inner_dim),
            ("input_embedding_dim", "diffusion_model_cfg", self.dit.inner_dim),
            ("hidden_size", "the output of diffusion_model_cfg", self.dit.output_dim),
        ):
            if width is not None and width != getattr(self, name):
                raise ValueError(f"{name} is {getattr(self, name)}, but {part} has {width} dimensions")
        if self.max_seq_len < self.action_horizon:
            raise ValueError(f"max_seq_len is {self.max_seq_len}, less than action_horizon, {self.action_horizon}")
        return self

    @property
    def mixing(self) -> TransformerConfig | None:
        """The blocks over the features, if there are any."""
        return self.vl_self_attention_cfg if self.use_vl_self_attention else None

    @property
    def dit(self) -> DiTConfig:
        """The diffusion transformer's section, with the width it attends to."""
        return self.diffusion_model_cfg.model_copy(update={"cross_attention_dim": self.backbone_embedding_dim})


OFFICIAL_3B = ModelConfig(
    select_layer=16,
    diffusion_model_cfg=DiTConfig(num_layers=32, dropout=0.2),
    vl_self_attention_cfg=TransformerConfig(),
)
"""nvidia/GR00T-N1.7-3B, whose config.json says what differs from the defaults."""

TINY_WIDTH = 96
TINY_PATCH = 16
TINY_EDGE = 128
"""Shorter side of the images: 16 tokens each."""
TINY_VOCABULARY = 287
"""Tokens of the tiny model's tokenizer, which ``trainer.gr00t.n17.tiny`` makes: 256 bytes, some words and their parts,
the special tokens."""


def tiny_values(image_token: int, vision_start: int, vision_end: int) -> dict[str, Any]:
    """Values of the tiny model's config.json: all sizes are small, but for the official horizon."""
    # No dropout: so small a model has nothing to regularise.
    blocks = {"num_attention_heads": 4, "attention_head_dim": TINY_WIDTH // 4, "dropout": 0.0}
    return {
        "model_name": "tiny",
        "backbone_embedding_dim": TINY_WIDTH,
        "select_layer": 2,
        "max_state_dim": 64,
        "max_action_dim": 32,
        "hidden_size": 128,
        "input_embedding_dim": TINY_WIDTH,
        "max_seq_len": 64,
        "diffusion_model_cfg": {"num_layers": 4, "output_dim": 128, **blocks},
        "vl_self_attention_cfg": {"num_layers": 1, **blocks},
        "state_dropout_prob": 0.0,
        "qwen3_vl_config": {
            "image_token_id": image_token,
            "vision_start_token_id": vision_start,
            "vision_end_token_id": vision_end,
            "text_config": {
                "head_dim": 32,
                "hidden_size": TINY_WIDTH,
                "intermediate_size": 2 * TINY_WIDTH,
                "num_attention_heads": 4,
                "num_hidden_layers": 2,
                "num_key_value_heads": 2,
                "rope_scaling": {"mrope_interleaved": True, "mrope_section": [6, 5, 5], "rope_type": "default"},
                "rope_theta": 5000000,
                "vocab_size": TINY_VOCABULARY,
            },
            "vision_config": {
                "deepstack_visual_indexes": [0],
                "depth": 2,
                "hidden_size": 64,
                "intermediate_size": 128,
                "num_heads": 4,
                "num_position_embeddings": 64,
                "out_hidden_size": TINY_WIDTH,
                "patch_size": TINY_PATCH,
            },
        },
    }


def read(values: Mapping[str, Any]) -> ModelConfig:
    """The sizes that a ``config.json`` says. Raises pydantic's ``ValidationError``."""
    return ModelConfig.model_validate(values)


def official() -> ModelConfig:
    """The sizes of NVIDIA's base model."""
    return OFFICIAL_3B


def tiny() -> ModelConfig:
    """The sizes of the generated one."""
    return ModelConfig.model_validate(tiny_values(0, 0, 0))


def longest_horizon(values: Mapping[str, Any]) -> object:
    """How many steps at once a model with this ``config.json`` can predict."""
    return values.get("action_horizon", ModelConfig.model_fields["action_horizon"].default)
