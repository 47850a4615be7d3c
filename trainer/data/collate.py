"""Batches samples into the model's inputs (upstream's ``DefaultDataCollator``, ``gr00t/model/transforms.py``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from trainer.data.dataset import StepBatch
from trainer.data.transforms.augment import augment, finished
from trainer.data.transforms.planes import resized_rgb
from trainer.data.transforms.sample import Sample


class PromptEncoder(Protocol):
    """What the collator needs of ``trainer.gr00t.n15.processor.EagleProcessor``."""

    def encode(self, texts: Sequence[str], images: Sequence[np.ndarray]) -> Mapping[str, object]:
        """Texts and uint8 ``[V, H, W, 3]`` images to left-padded ids, mask and pixel values, under ``eagle_`` keys."""
        ...

    def encode_prompts(self, texts: Sequence[str], views: Sequence[int]) -> Mapping[str, object]:
        """The same without the pixel values, for so many images per text."""
        ...


class Collator:
    """Stacks B samples and encodes their prompts in one go."""

    def __init__(self, processor: PromptEncoder) -> None:
        self.processor = processor

    def __call__(self, samples: Sequence[Sample] | StepBatch) -> dict[str, Any]:
        """``eagle_*``, ``state`` ``[B, 1, 64]`` and its mask, ``embodiment_id`` ``[B]`` and, unless at inference,
        ``action`` ``[B, 16, 32]`` and its mask. Floats are float32. ``one_embodiment`` tells whether all samples have
        the same.

        A ``StepBatch`` gives ``frames``, ``jitter`` and what converts planes in place of the pixel values, for
        ``finish_images``.
        """
        if isinstance(samples, StepBatch):
            prompts = self.processor.encode_prompts(samples.texts, [samples.frames.shape[1]] * len(samples.texts))
            images = {"frames": samples.frames, "jitter": samples.jitter, **samples.planes}
            return {**prompts, **samples.vectors, **images, "one_embodiment": True}  # a dataset has one tag
        texts, images = [sample["text"] for sample in samples], [sample["images"] for sample in samples]
        batch: dict[str, Any] = dict(self.processor.encode(texts, images))
        batch["state_mask"] = _stack([sample["state_mask"] for sample in samples])
        return {**batch, **vectors(samples)}


def finish_images(batch: dict[str, Any]) -> dict[str, Any]:
    """Turn the frames of a collated ``StepBatch`` into ``eagle_pixel_values``, on their device."""
    if "frames" not in batch:
        return batch
    rest = {key: value for key, value in batch.items() if key not in ("frames", "jitter", "factors", "corners")}
    if "factors" in batch:
        images = resized_rgb(batch["frames"], batch["factors"], batch["corners"])
        return {**rest, "eagle_pixel_values": finished(images, batch["jitter"])}
    return {**rest, "eagle_pixel_values": augment(batch["frames"], batch["jitter"])}


def vectors(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """States, actions (where all samples have one) and embodiments of a batch, for any generation."""
    batch: dict[str, Any] = {"state": _stack([sample["state"] for sample in samples])}
    if all("action" in sample for sample in samples):
        batch["action"] = _stack([sample["action"] for sample in samples])
        batch["action_mask"] = _stack([sample["action_mask"] for sample in samples])
    embodiments = [sample["embodiment_id"] for sample in samples]
    batch["embodiment_id"] = torch.tensor(embodiments, dtype=torch.int64)
    batch["one_embodiment"] = len(set(embodiments)) == 1
    return batch


def _stack(arrays: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(arrays))
