"""The Qwen3-VL backbone: images placed into a prompt, features from the last language layer that is kept.

Follows upstream's ``gr00t/model/modules/qwen3_backbone.py`` on the stock model of transformers 5. Upstream's features
are what transformers 4.57 calls ``hidden_states[-1]``: the last layer's output before the final norm, and before the
vision tower's features are added to it. Not computed, because nothing reads them: the final norm, the logits.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel, Qwen3VLTextRMSNorm

from trainer.gr00t.n17.sections import ModelConfig
from trainer.gr00t.parts.trained import has_trainable


class UnusedNorm(Qwen3VLTextRMSNorm):
    """The final norm: its weight belongs to the checkpoint, the features are taken before it."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """``hidden_states`` as they are."""
        return hidden_states


class LanguageHolder(nn.Module):
    """Qwen3-VL without its output layer, under the name ``model`` of the causal model it is taken from."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        qwen = config.qwen3_vl_config.qwen3_vl(config.select_layer)
        self.model = Qwen3VLModel(qwen)
        norm = self.model.language_model.norm
        self.model.language_model.norm = UnusedNorm(config.qwen3_vl_config.width, eps=norm.variance_epsilon)


class QwenBackbone(nn.Module):
    """The backbone as the action head sees it. What is frozen runs in eval mode and without gradients."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.model = LanguageHolder(config)
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

    def positions(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, image_grid_thw: torch.Tensor
    ) -> torch.Tensor:
        """Places of the tokens in time, height and width, [3, B, N]: text counts on, an image's tokens share a time."""
        kinds = (input_ids == self.image_token).int()
        # transformers declares types of tensors that other packages don't.
        return self.qwen.get_rope_index(input_ids, kinds, image_grid_thw, None, attention_mask)[0]  # pyrefly: ignore[bad-argument-type]

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        pixel_values: torch.Tensor,
        image_grid_thw: torch.Tensor,
        position_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Features [B, N, width] of token ids [B, N] and the images' patches [P, channels x 2 x size x size].

        ``attention_mask`` [B, N] is 0 where a token is padding, on the left; None means nowhere. ``image_grid_thw``
        [I, 3] says how many patches each image has, and ``position_ids`` [3, B, N] replace ``positions``. Raises
        ``ValueError`` when the prompts have another number of image tokens than the images give.
        """
        language = self.qwen.language_model
        places = input_ids == self.image_token
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._trains_images):
            vision = self.qwen.visual(pixel_values.to(self.qwen.visual.dtype), grid_thw=image_grid_thw)
            images = vision.pooler_output
        with torch.set_grad_enabled(torch.is_grad_enabled() and (images.requires_grad or self._trains_language)):
            embeddings = language.embed_tokens(input_ids)
            if (wanted := int(places.sum())) != len(images):
                raise ValueError(f"The prompts have room for {wanted} image tokens; the images give {len(images)}.")
            embeddings = embeddings.masked_scatter(places.unsqueeze(-1), images.to(embeddings.dtype))
            if position_ids is None:
                position_ids = self.positions(input_ids, attention_mask, image_grid_thw)
            features = language(
                inputs_embeds=embeddings,
                attention_mask=attention_mask,
                position_ids=position_ids,
                visual_pos_masks=places,
                deepstack_visual_embeds=vision.deepstack_features[: self._levels],
                use_cache=False,
            ).last_hidden_state
        if self.training and self._trains_norm:
            # DistributedDataParallel needs a gradient for every trained parameter; the unused norm's is zero.
            features = features + 0.0 * language.norm.weight.sum()
        return features
