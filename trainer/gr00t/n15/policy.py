"""GR00T N1.5 behind ``trainer.gr00t.policy.Policy`` (upstream's ``gr00t/model/policy.py``)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torchvision.transforms.v2 import functional

from trainer.data.collate import Collator
from trainer.data.transforms.sample import Sample, SampleTransform
from trainer.errors import UsageError
from trainer.gr00t.checkpoint import Checkpoint
from trainer.gr00t.n15.model import GR00TN15, resize_action_head
from trainer.gr00t.n15.processor import EagleProcessor
from trainer.gr00t.parts.chunking import Chunking

log = logging.getLogger(__name__)


class CheckpointActor:
    """A checkpoint of N1.5; see ``trainer.gr00t.policy.Actor``. Images are resized to the training's size."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        config, metadata = checkpoint.data_config, checkpoint.metadata
        if metadata is None:
            raise UsageError(f"{checkpoint.folder} has no metadata of its data.", "Pull the checkpoint again.")
        self._image_sizes = checkpoint.image_sizes
        self._resized: set[str] = set()
        self._transform = SampleTransform(config, metadata, checkpoint.embodiment_tag)
        self._half = device.type == "cuda"
        self._device = device
        self.model = GR00TN15.from_pretrained(checkpoint.folder, dtype=torch.bfloat16 if self._half else None)
        resize_action_head(self.model, config.action_horizon, config.max_action_dim)
        self.noise_shape = (config.action_horizon, config.max_action_dim)
        self.collate: Callable[[Sequence[Any]], dict[str, Any]] = Collator(
            EagleProcessor.from_directory(checkpoint.folder)
        )

    def sample(self, observation: Mapping[str, Any]) -> tuple[Sample, None]:
        """See ``Actor``."""
        return self._transform.apply(self._fitted(observation)), None

    def training_sample(self, step: Mapping[str, Any]) -> Sample:
        """See ``Actor``."""
        sample, _ = self.sample(step)
        sample["action"], sample["action_mask"] = self._transform.padded_action(step)
        return sample

    def predict(self, batch: Mapping[str, Any], noise: torch.Tensor | None, chunking: Chunking | None) -> torch.Tensor:
        """See ``Actor``."""
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._half):
            return self.model.get_action(batch, noise, chunking)["action_pred"]

    def decode(self, actions: np.ndarray, seen: Sequence[None], *, batched: bool) -> dict[str, np.ndarray]:  # noqa: ARG002
        """See ``Actor``. The actions are float64."""
        return self._transform.unapply(actions if batched else actions[0])

    def normalised(self, actions: Mapping[str, np.ndarray], observation: Mapping[str, Any]) -> np.ndarray:  # noqa: ARG002
        """See ``Actor``."""
        return self._transform.padded_action(actions)[0]

    def velocity(self, batch: Mapping[str, Any], noise: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """See ``Actor``."""
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._half):
            return self.model(batch, noise, time)["predicted_velocity"]

    def draw_time(self, generator: np.random.Generator) -> float:
        """See ``Actor``, and ``FlowMatchingActionHead.sample_time``."""
        head = self.model.action_head.config
        return (head.noise_s - generator.beta(head.noise_beta_alpha, head.noise_beta_beta)) / head.noise_s

    def _fitted(self, observation: Mapping[str, Any]) -> Mapping[str, Any]:
        """``observation`` with images of the size that the cameras had in the training, with one warning."""
        changed: dict[str, Any] = {}
        for key in self._transform.config.video:
            frames = np.asarray(observation.get(f"video.{key}", ()))
            if key not in self._image_sizes or frames.ndim != 4 or frames.dtype != np.uint8:
                continue  # the transform reports what is wrong with it
            width, height = self._image_sizes[key]
            if frames.shape[1:3] == (height, width):
                continue
            if not self._resized:
                log.warning(
                    "The camera %s gives images of %dx%d; it was trained on %dx%d, and they are resized.",
                    key,
                    *(frames.shape[2], frames.shape[1], width, height),
                )
            self._resized.add(key)
            images = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
            resized = functional.resize(images, [height, width], antialias=True)
            changed[f"video.{key}"] = resized.permute(0, 2, 3, 1).numpy()
        return {**observation, **changed} if changed else observation
