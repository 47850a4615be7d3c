"""Sections of ``config.json`` that the generations share, in upstream's fields. No torch at import."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A section of ``config.json``. Keys we don't know are upstream's and stay as they are."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())


class TransformerConfig(Section):
    """``vl_self_attention_cfg``: transformer blocks over the backbone's features."""

    num_layers: int = Field(default=4, ge=0)
    num_attention_heads: int = Field(default=32, ge=1)
    attention_head_dim: int = Field(default=64, ge=1)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    final_dropout: bool = True
    positional_embeddings: None = None

    @property
    def inner_dim(self) -> int:
        """Width of the tokens."""
        return self.num_attention_heads * self.attention_head_dim


class DiTConfig(TransformerConfig):
    """``diffusion_model_cfg``: the diffusion transformer."""

    num_layers: int = Field(default=16, ge=1)
    attention_head_dim: int = Field(default=48, ge=1)
    cross_attention_dim: int = 2048
    output_dim: int = 1024
    interleave_self_attention: bool = True
    norm_type: str = "ada_norm"
