"""The Eagle 2.5 backbone: SigLIP's patch tokens placed into a Qwen3 prompt, features from the last layer kept.

Follows upstream's ``gr00t/model/backbone/eagle_backbone.py`` and ``eagle2_hg_model``. Not computed, because nothing
reads them: the language model's logits, SigLIP's pooling head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, Qwen3Config, Qwen3Model, SiglipVisionConfig, SiglipVisionModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from trainer.errors import UsageError
from trainer.gr00t.n15.config import GR00TN15Config
from trainer.gr00t.parts.trained import has_trainable

_MASKED = torch.finfo(torch.bfloat16).min
"""Finite in every dtype used, and so large that adding a score to it changes nothing."""


def causal_mask(attention_mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The additive causal mask [B, 1, N, N] of a left-padded batch.

    A padding token sees no real token. Its row is masked evenly, so it attends to every position alike, as in
    upstream with SDPA attention on a CPU.
    """
    padding = attention_mask == 0
    n = attention_mask.shape[1]
    future = torch.ones(n, n, dtype=torch.bool, device=attention_mask.device).triu(1)
    blocked = future[None, None] | padding[:, None, None, :]
    return torch.zeros(blocked.shape, dtype=dtype, device=blocked.device).masked_fill_(blocked, _MASKED)


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    padding: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """SDPA attention; with ``padding`` [B, N], what these tokens attend to is zero, as with flash attention."""
    out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return out if padding is None else out.masked_fill(padding[:, :, None, None], 0), None


ATTENTION = "groot_sdpa"
AttentionInterface.register(ATTENTION, _attention)


class VisionTower(nn.Module):
    """SigLIP, under the name ``vision_model.vision_model`` that older transformers and all checkpoints give it."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        self.vision_model = SiglipVisionModel(config)
        # The pooling head's weights belong to the checkpoint, its output is not used.
        self.vision_model.use_head = False

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Images [I, 3, H, W] in [-1, 1] to patch tokens [I, P, width]."""
        return self.vision_model(pixel_values=pixel_values).last_hidden_state


class LanguageModel(nn.Module):
    """Qwen3 without its output layer, under the name ``language_model.model`` of the causal model it is taken from."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.model = Qwen3Model(config)


class EagleModel(nn.Module):
    """Vision tower, connector (``mlp1``) and language model."""

    def __init__(self, config: GR00TN15Config) -> None:
        super().__init__()
        eagle = config.eagle
        if eagle.use_pixel_shuffle or eagle.mlp_connector_layers != 1 or eagle.select_layer != -1:
            raise UsageError(
                "eagle_config asks for pixel shuffle, another connector or an inner vision layer.",
                "GR00T N1.5 has use_pixel_shuffle false, mlp_connector_layers 1, select_layer -1.",
            )
        layers = config.backbone.select_layer
        if layers > eagle.text_config["num_hidden_layers"]:
            raise UsageError(
                f"backbone_cfg.select_layer is {layers}, but eagle_config's language model has "
                f"{eagle.text_config['num_hidden_layers']} layers."
            )
        vision, text = eagle.siglip(), eagle.qwen3(layers, ATTENTION)
        self.config = config
        self.image_token = eagle.image_token_index
        self.vision_model = VisionTower(vision)
        self.language_model = LanguageModel(text)
        self.mlp1 = nn.Sequential(nn.Linear(vision.hidden_size, text.hidden_size))
        self.note_trained()

    def note_trained(self) -> None:
        """Find out which parts are trained; to be called when that has changed. Asking at each step walks through every
        module, which takes as long as launching a tenth of the step's kernels.
        """
        self._trains_images = has_trainable(self.vision_model, self.mlp1)
        self._trains_language = has_trainable(self.language_model)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        pixel_values: torch.Tensor,
        image_tokens: int | None = None,
    ) -> torch.Tensor:
        """Features [B, N, width], after the final norm, of token ids [B, N] and images [I, 3, H, W].

        ``attention_mask`` [B, N] is 0 where a token is padding; None means nowhere. ``image_tokens`` is the number of
        image tokens in ``input_ids``, which is counted when it is not given. Raises ``ValueError`` when it is not the
        number that the images have.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._trains_images):
            images = self.vision_model(pixel_values)
            images = self.mlp1(images)
        with torch.set_grad_enabled(torch.is_grad_enabled() and (images.requires_grad or self._trains_language)):
            embeddings = self.language_model.model.embed_tokens(input_ids)
            places = input_ids == self.image_token
            wanted = int(places.sum()) if image_tokens is None else image_tokens
            if wanted != (given := images.shape[0] * images.shape[1]):
                raise ValueError(f"The prompts have room for {wanted} image tokens; the images give {given}.")
            # As masked_scatter, whose gradient the host waits for: how many places there are decides its shape.
            rows = (places.flatten().cumsum(0) - 1).clamp_min(0)
            taken = images.flatten(0, 1).index_select(0, rows).view_as(embeddings)
            embeddings = torch.where(places.unsqueeze(-1), taken.to(embeddings.dtype), embeddings)
            mask, padding = None, None
            if attention_mask is not None:
                mask = causal_mask(attention_mask, embeddings.dtype)
                if self.config.upstream_exact and self.config.backbone.use_flash_attention:
                    padding = attention_mask == 0
            return self.language_model.model(
                inputs_embeds=embeddings, attention_mask={"full_attention": mask}, padding=padding
            ).last_hidden_state


class EagleBackbone(nn.Module):
    """The backbone as the action head sees it. What is frozen runs in eval mode and without gradients."""

    def __init__(self, config: GR00TN15Config) -> None:
        super().__init__()
        width = config.eagle.text_config["hidden_size"]
        project = config.backbone.project_to_dim
        self.eagle_model = EagleModel(config)
        self.eagle_linear = nn.Linear(width, project) if project is not None else nn.Identity()
        for parameter in self.parameters():  # parameters only: the rotary frequencies are a buffer and stay float32
            parameter.data = parameter.data.to(config.eagle.dtype)
        self.train(self.training)

    def set_trainable(self, tune_llm: bool, tune_visual: bool) -> None:
        """Freeze the language model unless ``tune_llm``, the vision tower with its connector unless ``tune_visual``."""
        self.requires_grad_(True)
        self.eagle_model.language_model.requires_grad_(tune_llm)
        self.eagle_model.vision_model.requires_grad_(tune_visual)
        self.eagle_model.mlp1.requires_grad_(tune_visual)
        self.train(self.training)

    def train(self, mode: bool = True) -> EagleBackbone:
        """Set the mode; what is frozen stays in eval mode (upstream's ``set_frozen_modules_to_eval_mode``)."""
        super().train(mode)
        for part in (self.eagle_model.vision_model, self.eagle_model.language_model):
            part.train(mode and has_trainable(part))
        self.eagle_model.note_trained()
        self._trains_pooling = has_trainable(self.eagle_model.vision_model.vision_model.head)
        return self

    def reset_buffers(self) -> None:
        """Fill the buffers that no file holds, after the module was built on the meta device."""
        vision = self.eagle_model.vision_model.vision_model.embeddings
        vision.position_ids = nn.Buffer(torch.arange(vision.num_positions).expand((1, -1)), persistent=False)
        rotary = self.eagle_model.language_model.model.rotary_emb
        fresh = type(rotary)(rotary.config)
        rotary.inv_freq, rotary.original_inv_freq = fresh.inv_freq, fresh.original_inv_freq

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        pixel_values: torch.Tensor,
        image_tokens: int | None = None,
    ) -> torch.Tensor:
        """Features [B, N, width] of token ids [B, N] (left-padded) and images [I, 3, H, W] in [-1, 1].

        ``attention_mask`` [B, N] and ``image_tokens`` as in ``EagleModel.forward``.
        """
        features = self.eagle_linear(self.eagle_model(input_ids, attention_mask, pixel_values, image_tokens))
        if self.training and self._trains_pooling:
            # DistributedDataParallel needs a gradient for every trained parameter; the unused head's is zero.
            head = self.eagle_model.vision_model.vision_model.head
            features = features + 0.0 * sum(parameter.sum() for parameter in head.parameters())
        return features
