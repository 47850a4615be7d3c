"""``Gr00tN1d7``: backbone and action head together, trained and sampled through one dictionary of inputs."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch
from torch import nn

from trainer.gr00t.base_model import resolve_folder
from trainer.gr00t.n17.action_head import Context, FlowMatchingActionHead
from trainer.gr00t.n17.backbone import QwenBackbone
from trainer.gr00t.n17.config import Gr00tN1d7Config, config_document, read_config
from trainer.gr00t.n17.positions import Positions
from trainer.gr00t.parts.chunking import Chunking
from trainer.gr00t.weights import GrootModel, Layout, load_checkpoint

EMBEDDINGS = "backbone.model.model.language_model.embed_tokens.weight"
LM_HEAD = "backbone.model.lm_head.weight"


class Gr00tN1d7(GrootModel):
    """GR00T N1.7 (upstream's class of this name), with upstream's parameter names.

    ``inputs`` of ``forward`` and ``get_action`` are the collator's batch: ``input_ids`` and ``attention_mask`` [B, N],
    ``pixel_values`` [patches, 1536], ``image_grid_thw`` [images, 3], ``state`` [B, history, S], ``embodiment_id`` [B]
    and, to train, ``action`` and ``action_mask`` [B, T, D]. Other keys are ignored, but for ``unpadded``,
    ``one_embodiment`` and the fields of ``Positions``: what these say is found out without them, at the price of
    waiting for the GPU.
    """

    config: Gr00tN1d7Config  # pyrefly: ignore[bad-override-mutable-attribute]
    config_class = Gr00tN1d7Config
    layout = Layout(read_config, config_document, EMBEDDINGS, LM_HEAD)

    def __init__(self, config: Gr00tN1d7Config) -> None:
        super().__init__(config)
        self.backbone = QwenBackbone(config.checked)
        self.action_head = FlowMatchingActionHead(config.checked)
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
        state_dropout_prob: float | None = None,
    ) -> Gr00tN1d7:
        """Load a base model or checkpoint from a folder or, failing that, the Hugging Face Hub, in eval mode.

        Without ``dtype`` all weights are float32, as upstream trains them, whatever the files hold. Inference may give
        ``torch.bfloat16``. ``state_dropout_prob`` replaces that of config.json. Raises ``UsageError`` that names the
        file when something is missing, damaged or of another architecture.
        """
        model = load_checkpoint(cls, resolve_folder(path), dtype or torch.float32)
        model.backbone.reset_buffers()
        if state_dropout_prob is not None:
            model.config.checked = model.config.checked.model_copy(update={"state_dropout_prob": state_dropout_prob})
            model.action_head.config = model.config.checked
        model.set_trainable(tune_llm, tune_visual, tune_projector, tune_diffusion_model)
        return model.eval()

    def set_trainable(
        self, tune_llm: bool, tune_visual: bool, tune_projector: bool, tune_diffusion_model: bool
    ) -> None:
        """Decide what is trained, by these four flags and by ``tune_top_llm_layers`` and ``tune_vlln`` of config.json,
        which upstream's command line has no flags for.
        """
        values = self.config.checked
        self.backbone.set_trainable(tune_llm, tune_visual, values.tune_top_llm_layers)
        self.action_head.set_trainable(tune_projector, tune_diffusion_model, values.tune_vlln)

    def pieces(self) -> list[nn.Module]:
        """See ``GrootModel.pieces``."""
        vision, language = self.backbone.qwen.visual, self.backbone.qwen.language_model
        inner = [*vision.blocks, vision.merger, *vision.deepstack_merger_list, language.embed_tokens, *language.layers]
        return [*inner, self.backbone, *self.action_head.pieces()]

    def _prepare(self, inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The inputs on this model's device, floating ones in the action head's dtype (upstream's prepare_input)."""
        device, dtype = self.device, self.action_head.dtype
        return {
            key: value.to(device, dtype if torch.is_floating_point(value) else None, non_blocking=True)
            for key, value in inputs.items()
            if isinstance(value, torch.Tensor) and key not in Positions._fields
        }

    def _context(self, inputs: Mapping[str, Any], batch: Mapping[str, torch.Tensor]) -> Context:
        """What the action head attends to."""
        ids, mask = batch["input_ids"], batch["attention_mask"]
        unpadded = inputs.get("unpadded")
        if unpadded is None:
            unpadded = bool((mask != 0).all())
        features = self.backbone(
            ids,
            None if unpadded else mask,
            batch["pixel_values"],
            batch["image_grid_thw"],
            Positions.of(inputs, ids.device),
        )
        return self.action_head.context(features, ids == self.backbone.image_token, None if unpadded else mask != 0)

    def forward(
        self,
        inputs: Mapping[str, Any],
        noise: torch.Tensor | None = None,
        time: torch.Tensor | None = None,
        keep_state: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """The training step's ``loss`` (a scalar) and ``predicted_velocity`` [B, T, D].

        ``noise`` [B, T, D], ``time`` [B] in [0, 1) and ``keep_state`` [B] replace the draws from torch's global
        generator.
        """
        batch = self._prepare(inputs)
        return self.action_head(
            self._context(inputs, batch),
            batch["state"],
            batch["action"],
            batch["action_mask"],
            batch["embodiment_id"],
            noise=noise,
            time=time,
            keep_state=keep_state,
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
        actions = self.action_head.get_action(
            self._context(inputs, batch),
            batch["state"],
            batch["embodiment_id"],
            noise=noise,
            chunking=chunking,
            one_embodiment=inputs.get("one_embodiment"),
        )
        return {"action_pred": actions.float()}
