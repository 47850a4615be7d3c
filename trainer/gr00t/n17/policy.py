"""``Policy``: a checkpoint of N1.7 that acts (upstream's ``Gr00tPolicy``, ``gr00t/policy/gr00t_policy.py``)."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np
import torch

from trainer.data.n17 import processor_files
from trainer.data.n17.collate import Collator
from trainer.data.n17.embodiments import tag_of
from trainer.data.n17.sample import SampleProcessor
from trainer.errors import UsageError
from trainer.gr00t.n17.model import Gr00tN1d7
from trainer.gr00t.n17.processor import QwenProcessor
from trainer.gr00t.weights import resolve_folder


class Policy:
    """Raw observations in, raw action chunks out. The checkpoint says how its embodiment is read.

    On a GPU everything runs in bfloat16, as upstream's policy does; on a CPU in float32.
    """

    def __init__(
        self,
        model_path: str | PathLike[str],
        embodiment_tag: str,
        denoising_steps: int | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        """Load a checkpoint from a folder or the hub, for one of its embodiment tags.

        ``denoising_steps`` replaces the checkpoint's number of Euler steps; ``device`` is by default a GPU where there
        is one. Raises ``UsageError`` when the folder is no checkpoint, or was not trained on ``embodiment_tag``.
        """
        folder, tag = resolve_folder(model_path), tag_of(embodiment_tag)
        files = processor_files.read(folder)
        self.data_config = files.data_config(tag)
        self.processor = SampleProcessor(self.data_config, files.settings, files.of_tag(tag), files.slot(tag))
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.model = Gr00tN1d7.from_pretrained(folder, dtype=dtype)
        if self.processor.embodiment_id >= (slots := self.model.action_head.config.max_num_embodiments):
            raise UsageError(
                f"{folder / processor_files.EMBODIMENTS} gives {tag} the slot {self.processor.embodiment_id}; "
                f"the model has {slots}.",
                "Use the files of one checkpoint.",
            )
        if denoising_steps is not None:
            self.model.action_head.num_inference_timesteps = denoising_steps
        self.model.requires_grad_(False).eval().to(self.device)  # pyrefly: ignore[bad-argument-type]
        self._collate = Collator(QwenProcessor.from_directory(folder))

    @torch.inference_mode()
    def get_action(self, observation: Mapping[str, Any], noise: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Predict the next ``action_horizon`` actions (H), as ``action.<key>`` [H, D] in the robot's units.

        ``observation`` as ``SampleProcessor.observed`` takes it. The noise it starts from is drawn from torch's global
        generator; ``noise`` [max_action_horizon, max_action_dim] replaces it and makes the actions repeatable.
        """
        sample, state = self.processor.observed(observation)
        start = None
        if noise is not None:
            values = self.model.action_head.config
            if np.shape(noise) != (shape := (values.action_horizon, values.max_action_dim)):
                raise UsageError(f"noise is {list(np.shape(noise))}.", f"It must be {list(shape)}.")
            start = torch.as_tensor(noise, dtype=self.model.action_head.dtype, device=self.device)[None]
        predicted = self.model.get_action(self._collate([sample]), start)["action_pred"]
        return self.processor.decode(predicted[0].cpu().numpy(), state)
