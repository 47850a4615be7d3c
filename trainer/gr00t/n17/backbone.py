"""The Qwen3-VL backbone: images placed into a prompt, features from the last language layer that is kept.

Follows upstream's ``gr00t/model/modules/qwen3_backbone.py`` on the stock model of transformers 5. Upstream's features
are what transformers 4.57 calls ``hidden_states[-1]``: the last layer's output before the final norm, and before the
vision tower's features are added to it. Not computed, because nothing reads them: the final norm, the logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    Qwen3VLModel,
    Qwen3VLTextRMSNorm,
    Qwen3VLVisionAttention,
    apply_rotary_pos_emb_vision,
)

from trainer.gr00t.n17.positions import Positions, find_positions
from trainer.gr00t.n17.sections import ModelConfig
from trainer.gr00t.parts.trained import has_trainable


class UnusedNorm(Qwen3VLTextRMSNorm):
    """The final norm: its weight belongs to the checkpoint, the features are taken before it."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """``hidden_states`` as they are."""
        return hidden_states


class ImageAttention(Qwen3VLVisionAttention):
    """Attention within each image, images of the same size at once: transformers' takes one after another, and asks the
    GPU where each ends.
    """

    def forward(  # pyrefly: ignore[bad-override]
        self,
        hidden_states: torch.Tensor,
        cu_seqlens: Sequence[int],
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        **_: Any,
    ) -> torch.Tensor:
        """Patches [P, width] to [P, width], given ``Positions.image_patches`` in place of the ends of all images, and
        the rotary embeddings' cosines and sines.
        """
        query, key, value = self.qkv(hidden_states).unflatten(-1, (3, self.num_heads, -1)).unbind(1)
        query, key = apply_rotary_pos_emb_vision(query, key, *position_embeddings)
        series = [part.unflatten(0, (-1, sum(cu_seqlens))).transpose(1, 2) for part in (query, key, value)]
        alike = zip(*(part.split(list(cu_seqlens), dim=2) for part in series), strict=True)
        attended = [functional.scaled_dot_product_attention(*each, scale=self.scaling) for each in alike]
        together = attended[0] if len(attended) == 1 else torch.cat(attended, dim=2)
        return self.proj(together.transpose(1, 2).flatten(2).flatten(0, 1))


def add_to_images(hidden: torch.Tensor, positions: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Tokens [B, N, width] plus the vision tower's features [K, width] at ``Positions.image_indices``."""
    return hidden.flatten(0, 1).index_add(0, positions, features.to(hidden.dtype)).view_as(hidden)


def causal_mask(attention_mask: torch.Tensor) -> torch.Tensor:
    """Which tokens each one attends to, [B, 1, N, N], of ``attention_mask`` [B, N]. transformers makes the same mask,
    and asks the GPU before whether it is needed.
    """
    n = attention_mask.shape[1]
    past = torch.ones(n, n, dtype=torch.bool, device=attention_mask.device).tril()
    return past & (attention_mask != 0)[:, None, None, :]


class LanguageHolder(nn.Module):
    """Qwen3-VL without its output layer, under the name ``model`` of the causal model it is taken from."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        qwen = config.qwen3_vl_config.qwen3_vl(config.select_layer)
        self.model = Qwen3VLModel(qwen)
        norm = self.model.language_model.norm
        self.model.language_model.norm = UnusedNorm(config.qwen3_vl_config.width, eps=norm.variance_epsilon)
        self.model.language_model._deepstack_process = add_to_images
        for block in self.model.visual.blocks:
            block.attn.__class__ = ImageAttention  # the same parameters, without drawing them again


class QwenBackbone(nn.Module):
    """The backbone as the action head sees it. What is frozen runs in eval mode and without gradients."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.model = LanguageHolder(config)
        self._config = config.qwen3_vl_config
        self.image_token = config.qwen3_vl_config.image_token_id
        # A level that would be added to the last kept layer's output is not part of the features.
        self._levels = min(config.qwen3_vl_config.deepstack_levels, config.select_layer - 1)
        self.train(self.training)

    @property
    def qwen(self) -> Qwen3VLModel:
        """Vision tower and language model."""
        return self.model.model

    def set_trainable(self, tune_llm: bool, tune_visual: bool, tune_top_llm_layers: int = 0) -> None:
        """Freeze the language model unless ``tune_llm``, but for its last ``tune_top_llm_layers`` layers, and the
        vision tower with its mergers unless ``tune_visual``.
        """
        self.qwen.language_model.requires_grad_(tune_llm)
        self.qwen.visual.requires_grad_(tune_visual)
        for layer in list(self.qwen.language_model.layers)[-tune_top_llm_layers:] if tune_top_llm_layers else []:
            layer.requires_grad_(True)
        self.train(self.training)

    def train(self, mode: bool = True) -> QwenBackbone:
        """Set the mode; what is frozen stays in eval mode (upstream's ``set_frozen_modules_to_eval_mode``)."""
        super().train(mode)
        self._trains_images = has_trainable(self.qwen.visual)
        self._trains_language = has_trainable(self.qwen.language_model)
        self._trains_norm = has_trainable(self.qwen.language_model.norm)
        self.qwen.visual.train(mode and self._trains_images)
        self.qwen.language_model.train(mode and self._trains_language)
        return self

    def reset_buffers(self) -> None:
        """Fill the buffers that no file holds, after the module was built on the meta device."""
        for rotary in (self.qwen.visual.rotary_pos_emb, self.qwen.language_model.rotary_emb):
            fresh = type(rotary)(rotary.config)
            rotary.inv_freq, rotary.original_inv_freq = fresh.inv_freq, fresh.original_inv_freq

    def encode_images(
        self, pixel_values: torch.Tensor, image_grid_thw: torch.Tensor, positions: Positions
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The vision tower's features [K, width] of the images' tokens, and those of its inner levels; arguments as in
        ``forward``.
        """
        times = len(pixel_values) // len(positions.patch_positions)
        vision = self.qwen.visual(
            pixel_values.to(self.qwen.visual.dtype),
            grid_thw=image_grid_thw,
            interp_indices=positions.interp_indices.repeat(times, 1),
            interp_weights=positions.interp_weights.repeat(times, 1),
            position_ids=positions.patch_positions.repeat(times, 1),
            cu_seqlens=positions.image_patches,
        )
        return vision.pooler_output, vision.deepstack_features

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        pixel_values: torch.Tensor,
        image_grid_thw: torch.Tensor,
        positions: Positions | None = None,
    ) -> torch.Tensor:
        """Features [B, N, width] of token ids [B, N] and the images' patches [P, channels x 2 x size x size].

        ``attention_mask`` [B, N] is 0 where a token is padding; None means nowhere. ``image_grid_thw`` [I, 3] says how
        many patches each image has. ``positions`` follow from these, and are found where they are not given; on a
        GPU the host then waits. Raises ``ValueError`` when the prompts have another number of image tokens than the
        images give.
        """
        language = self.qwen.language_model
        if positions is None:
            mask = None if attention_mask is None else attention_mask.cpu()
            grids = [(rows, columns) for _, rows, columns in image_grid_thw.tolist()]
            positions = find_positions(input_ids.cpu(), mask, grids, self._config).to(input_ids.device)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._trains_images):
            images, levels = self.encode_images(pixel_values, image_grid_thw, positions)
        with torch.set_grad_enabled(torch.is_grad_enabled() and (images.requires_grad or self._trains_language)):
            embeddings = language.embed_tokens(input_ids)
            embeddings = embeddings.flatten(0, 1).index_copy(0, positions.image_indices, images.to(embeddings.dtype))
            features = language(
                inputs_embeds=embeddings.view(*input_ids.shape, -1),
                attention_mask=None if attention_mask is None else causal_mask(attention_mask),
                position_ids=positions.position_ids,
                visual_pos_masks=positions.image_indices,
                deepstack_visual_embeds=levels[: self._levels],
                use_cache=False,
            ).last_hidden_state
        if self.training and self._trains_norm:
            # DistributedDataParallel needs a gradient for every trained parameter; the unused norm's is zero.
            features = features + 0.0 * language.norm.weight.sum()
        return features
