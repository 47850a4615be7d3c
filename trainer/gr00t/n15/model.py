"""``GR00TN15``: backbone and action head together, trained and sampled through one dictionary of inputs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch
from torch import nn

from trainer.gr00t.n15.action_head import FlowMatchingActionHead
from trainer.gr00t.n15.backbone import EagleBackbone
from trainer.gr00t.n15.config import GR00TN15Config, config_document, read_config
from trainer.gr00t.parts.chunking import Chunking
from trainer.gr00t.parts.embodiment import CategorySpecificLinear
from trainer.gr00t.weights import GrootModel, Layout, load_checkpoint, resolve_folder

log = logging.getLogger(__name__)

EMBEDDINGS = "backbone.eagle_model.language_model.model.embed_tokens.weight"
LM_HEAD = "backbone.eagle_model.language_model.lm_head.weight"
_VISION = "backbone.eagle_model.vision_model."


def _upstream_name(name: str) -> str:
    """The name upstream gives a tensor that a newer transformers (SigLIP not nested) has saved."""
    inner = name.removeprefix(_VISION)
    return name if inner == name or inner.startswith("vision_model.") else f"{_VISION}vision_model.{inner}"


class GR00TN15(GrootModel):
    """GR00T N1.5 (upstream's ``GR00T_N1_5``), with upstream's parameter names.

    ``inputs`` of ``forward`` and ``get_action`` are the collator's batch: ``eagle_input_ids`` and
    ``eagle_attention_mask`` [B, N], ``eagle_pixel_values`` [B x views, 3, H, W] in [-1, 1], ``state`` [B, 1, S],
    ``embodiment_id`` [B] and, to train, ``action`` and ``action_mask`` [B, T, D]. Other keys are ignored, but for
    ``eagle_unpadded``, ``eagle_image_tokens`` and ``one_embodiment``: what these say is found out without them, at the
    price of waiting for the GPU, which has nothing to do then until the next kernel is launched.
    """

    config: GR00TN15Config  # pyrefly: ignore[bad-override-mutable-attribute]
    config_class = GR00TN15Config
    layout = Layout(read_config, config_document, EMBEDDINGS, LM_HEAD, _upstream_name)

    def __init__(self, config: GR00TN15Config) -> None:
        super().__init__(config)
        self.backbone = EagleBackbone(config)
        self.action_head = FlowMatchingActionHead(config.action_head)
        self.post_init()

    @classmethod
    def from_pretrained(
        cls,
        path: str | PathLike[str],
        *,
        tune_llm: bool = False,
        tune_visual: bool = False,
        tune_projector: bool = True,
        tune_diffusion_model: bool = True,
        dtype: torch.dtype | None = None,
    ) -> GR00TN15:
        """Load a base model or checkpoint from a folder or, failing that, the Hugging Face Hub, in eval mode.

        Without ``dtype`` the weights are as upstream trains them: the backbone in ``eagle_config.torch_dtype``
        (bfloat16 for the official model), the action head in float32. Inference may give ``torch.bfloat16`` for all.
        Raises ``UsageError`` that names the file when something is missing, damaged or of another architecture.
        """
        folder = resolve_folder(path)
        model = load_checkpoint(cls, folder, dtype)
        model.backbone.reset_buffers()
        model.set_trainable(tune_llm, tune_visual, tune_projector, tune_diffusion_model)
        return model.eval()

    def set_trainable(
        self, tune_llm: bool, tune_visual: bool, tune_projector: bool, tune_diffusion_model: bool
    ) -> None:
        """Decide what is trained; the four flags decide alone, whatever was trained before."""
        self.backbone.set_trainable(tune_llm, tune_visual)
        self.action_head.set_trainable(tune_projector, tune_diffusion_model)

    def pieces(self) -> list[nn.Module]:
        """See ``GrootModel.pieces``."""
        eagle = self.backbone.eagle_model
        vision, language = eagle.vision_model.vision_model, eagle.language_model.model
        inner = [*vision.encoder.layers, language.embed_tokens, *language.layers]
        return [*inner, self.backbone, *self.action_head.pieces()]

    def _prepare(self, inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The inputs on this model's device, floating ones in the action head's dtype (upstream's prepare_input)."""
        device, dtype = self.device, self.action_head.dtype
        return {
            key: value.to(device, dtype if torch.is_floating_point(value) else None, non_blocking=True)
            for key, value in inputs.items()
            if isinstance(value, torch.Tensor)
        }

    def _features(
        self, inputs: Mapping[str, Any], batch: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The backbone's features [B, N, width], and which of them [B, N] the action head attends to: those of real
        tokens. None means all.

        Upstream ignores the mask there (issue #417), and attends to padding.
        """
        mask = batch["eagle_attention_mask"]
        unpadded = inputs.get("eagle_unpadded")
        if unpadded is None:
            unpadded = bool((mask != 0).all())
        features = self.backbone(
            batch["eagle_input_ids"],
            None if unpadded else mask,
            batch["eagle_pixel_values"],
            inputs.get("eagle_image_tokens"),
        )
        return features, None if unpadded or self.config.upstream_exact else mask != 0

    def forward(
        self, inputs: Mapping[str, Any], noise: torch.Tensor | None = None, time: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """The training step's ``loss`` (a scalar) and ``predicted_velocity`` [B, T, D].

        ``noise`` [B, T, D] and ``time`` [B] in [0, 1] replace the draws from torch's global generator.
        """
        batch = self._prepare(inputs)
        features, mask = self._features(inputs, batch)
        return self.action_head(
            features,
            batch["state"],
            batch["action"],
            batch["action_mask"],
            batch["embodiment_id"],
            noise=noise,
            time=time,
            mask=mask,
            one_embodiment=inputs.get("one_embodiment"),
        )

    @torch.no_grad()
    def get_action(
        self, inputs: Mapping[str, Any], noise: torch.Tensor | None = None, chunking: Chunking | None = None
    ) -> dict[str, torch.Tensor]:
        """``action_pred`` [B, T, D] float32, normalised. ``noise`` [B, T, D] replaces the draw it starts from, and
        ``chunking`` makes it continue an earlier chunk.
        """
        batch = self._prepare(inputs)
        features, mask = self._features(inputs, batch)
        actions = self.action_head.get_action(
            features,
            batch["state"],
            batch["embodiment_id"],
            noise=noise,
            mask=mask,
            chunking=chunking,
            one_embodiment=inputs.get("one_embodiment"),
        )
        return {"action_pred": actions.float()}


def resize_action_head(model: GR00TN15, action_horizon: int, action_dim: int) -> None:
    """Give ``model`` another action horizon (steps) or action width, keeping what it has learned.

    No weight depends on the horizon. For another width, the action encoder's first and the decoder's last layer are
    made again and the shared leading dimensions copied. (Upstream leaves the encoder's first layer random: its copy
    looks for a parameter ``W1.weight``, which is called ``W1.W``.) The configuration follows, so that a saved
    checkpoint is right. Trainable flags stay as they were.
    """
    head, config = model.action_head, model.config
    slots, old = head.config.max_num_embodiments, head.config.action_dim
    if action_dim != old:
        shared = min(old, action_dim)
        first, last = head.action_encoder.W1, head.action_decoder.layer2
        wider_first = CategorySpecificLinear(slots, action_dim, head.config.input_embedding_dim)
        wider_last = CategorySpecificLinear(slots, head.config.hidden_size, action_dim)
        with torch.no_grad():
            wider_first.W[:, :shared] = first.W[:, :shared].cpu()
            wider_first.b.copy_(first.b)
            wider_last.W[..., :shared] = last.W[..., :shared].cpu()
            wider_last.b[..., :shared] = last.b[..., :shared].cpu()
        head.action_encoder.W1 = wider_first.to(first.W).requires_grad_(first.W.requires_grad)
        head.action_decoder.layer2 = wider_last.to(last.W).requires_grad_(last.W.requires_grad)
        log.info("The action head was resized from %d to %d action dimensions.", old, action_dim)
    config.action_horizon, config.action_dim = action_horizon, action_dim
    sizes = {"action_horizon": action_horizon, "action_dim": action_dim, "max_action_dim": action_dim}
    config.action_head_cfg = {**(config.action_head_cfg or {}), **sizes}
    head.config = config.action_head
    model.train(model.training)
