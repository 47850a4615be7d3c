"""Batches samples of N1.7 into the model's inputs (upstream's ``Gr00tN1d7DataCollator``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from trainer.data.collate import vectors
from trainer.data.n17.finish import Finish, StepBatch
from trainer.data.n17.patches import Patches
from trainer.data.n17.sample import Sample


class PromptEncoder(Protocol):
    """What the collator needs of ``trainer.gr00t.n17.processor.QwenProcessor``."""

    def encode(self, texts: Sequence[str], images: Sequence[Sequence[np.ndarray]]) -> Mapping[str, Any]:
        """Texts and their images to left-padded ids, mask, patches and grids."""
        ...

    def encode_prompts(self, texts: Sequence[str], sizes: Sequence[Sequence[tuple[int, int]]]) -> Mapping[str, Any]:
        """The same without the patches, for images of these heights and widths."""
        ...

    @property
    def patches(self) -> Patches:
        """What its patches are like."""
        ...


class Collator:
    """Stacks B samples and encodes their prompts in one go."""

    def __init__(self, processor: PromptEncoder) -> None:
        self.processor = processor

    def __call__(self, samples: Sequence[Sample] | StepBatch) -> dict[str, Any]:
        """``input_ids``, ``attention_mask``, ``pixel_values``, ``image_grid_thw``, ``state`` ``[B, 1, 132]``,
        ``embodiment_id`` ``[B]`` and, unless at inference, ``action`` and ``action_mask`` ``[B, 40, 132]``.
        ``one_embodiment`` tells whether all samples have the same.

        A ``StepBatch`` gives ``crops`` and ``finish`` in place of the pixel values, for ``finish_images``.
        """
        if isinstance(samples, StepBatch):
            prompts = self.processor.encode_prompts(samples.texts, [samples.sizes] * len(samples.texts))
            grids = [(rows, columns) for _, rows, columns in prompts["image_grid_thw"][: len(samples.sizes)].tolist()]
            finish = Finish(samples.sizes, samples.drawn, grids, self.processor.patches)
            images = {"crops": samples.crops, "finish": finish}
            return {**prompts, **samples.vectors, **images, "one_embodiment": True}  # a dataset has one tag
        texts, images = [sample["text"] for sample in samples], [sample["images"] for sample in samples]
        return {**self.processor.encode(texts, images), **vectors(samples)}
