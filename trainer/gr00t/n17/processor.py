"""``QwenProcessor``: instructions and images to the backbone's inputs.

Follows Qwen3-VL's processor and chat template for the one case GR00T N1.7 uses: a user turn with all images, then the
instruction, and nothing after it. ``tests/trainer/gr00t/n17`` holds it against transformers' own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from tokenizers import Tokenizer
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from trainer.data.n17.patches import Patches, write_patches
from trainer.errors import DatasetError, UsageError
from trainer.generation import N17
from trainer.gr00t.base_model import resolve_folder
from trainer.gr00t.n17.config import read_config
from trainer.gr00t.n17.positions import find_positions
from trainer.gr00t.n17.sections import ModelConfig
from trainer.gr00t.parts.tokenizer import PAD_TOKEN, load_tokenizer, padded, save_tokenizer

IMAGE_TOKEN = "<|image_pad|>"  # noqa: S105 - tokens of a tokenizer
_START, _END = "<|im_start|>", "<|im_end|>"
_VISION_START, _VISION_END = "<|vision_start|>", "<|vision_end|>"
SPECIAL_TOKENS = (PAD_TOKEN, _START, _END, _VISION_START, _VISION_END, IMAGE_TOKEN)
IMAGE_SETTINGS = "preprocessor_config.json"
"""Qwen's name of the file; NVIDIA's checkpoints have none, and mean Qwen3-VL's published values."""


class ImageSettings(BaseModel):
    """How an image becomes patches, in Qwen's terms; the defaults are those of Qwen3-VL-2B."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    patch_size: Annotated[int, Field(ge=1, le=64)] = 16
    temporal_patch_size: Annotated[int, Field(ge=1, le=8)] = 2
    merge_size: Annotated[int, Field(ge=1, le=8)] = 2
    size: dict[str, Annotated[int, Field(ge=1, le=2**26)]] = {"shortest_edge": 65536, "longest_edge": 16777216}
    """Fewest and most pixels of a whole image: smaller ones are enlarged, larger ones shrunk."""

    @model_validator(mode="after")
    def _has_both_edges(self) -> ImageSettings:
        if not {"shortest_edge", "longest_edge"} <= set(self.size):
            raise ValueError("size has no shortest_edge or no longest_edge")
        return self

    @property
    def factor(self) -> int:
        """What both sides of an image are multiples of."""
        return self.patch_size * self.merge_size

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """The sides an image of these sides gets. Raises ``ValueError`` where one is 200 times the other."""
        return smart_resize(height, width, self.factor, self.size["shortest_edge"], self.size["longest_edge"])


def prompt_text(instruction: str, image_tokens: Sequence[int]) -> str:
    """The whole prompt of one sample, with so many placeholders for each image."""
    images = "".join(f"{_VISION_START}{IMAGE_TOKEN * count}{_VISION_END}" for count in image_tokens)
    return f"{_START}user\n{images}{instruction}{_END}\n"


class QwenProcessor:
    """Turns instructions and images into the backbone's inputs; each instruction is tokenised once."""

    def __init__(self, tokenizer: Tokenizer, config: ModelConfig, images: ImageSettings | None = None) -> None:
        """``tokenizer`` must know the image's tokens under the ids of ``config``, else ``UsageError``."""
        qwen = config.qwen3_vl_config
        for token, wanted in (
            (IMAGE_TOKEN, qwen.image_token_id),
            (_VISION_START, qwen.vision_start_token_id),
            (_VISION_END, qwen.vision_end_token_id),
            (PAD_TOKEN, None),
        ):
            found = tokenizer.token_to_id(token)
            if found is None or (wanted is not None and found != wanted):
                raise UsageError(
                    f"The tokenizer gives {token} the id {found}, the model wants {wanted or 'one'}.",
                    "Use the tokenizer files that belong to this base model.",
                )
        self.tokenizer = tokenizer
        self.images = images or ImageSettings()
        self._qwen = qwen
        self._pad_token = tokenizer.token_to_id(PAD_TOKEN) or 0
        self._prompts: dict[tuple[str, tuple[int, ...]], torch.Tensor] = {}

    @classmethod
    def from_directory(cls, path: str | PathLike[str]) -> QwenProcessor:
        """The processor of the base model or checkpoint in folder ``path``, or of that name on the hub.

        A folder without tokenizer files, as NVIDIA's, gets those of ``N17.tokenizer`` from the hub or its cache; one
        without image settings has Qwen3-VL's. Raises ``UsageError`` when there is no config.json, or no
        tokenizer is available.
        """
        folder = resolve_folder(path)
        file = folder / IMAGE_SETTINGS
        try:
            images = ImageSettings.model_validate_json(file.read_text()) if file.is_file() else ImageSettings()
        except (OSError, ValidationError) as error:
            raise UsageError(f"{file} can't be used: {error}.", "Copy it again, or remove it.") from error
        return cls(load_tokenizer(folder, N17.tokenizer), read_config(folder).checked, images)

    def save_pretrained(self, folder: str | PathLike[str], same_as: Path | None = None) -> None:
        """Write tokenizer and image settings, so that a checkpoint in ``folder`` is a base model by itself.

        ``same_as`` is a folder that this processor was saved in before.
        """
        save_tokenizer(self.tokenizer, Path(folder), same_as)
        settings = {"image_processor_type": "Qwen2VLImageProcessorFast", **self.images.model_dump()}
        settings |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        (Path(folder) / IMAGE_SETTINGS).write_text(json.dumps(settings, indent=2) + "\n")

    @property
    def patches(self) -> Patches:
        """What its patches are like."""
        return Patches(self.images.patch_size, self.images.merge_size, self.images.temporal_patch_size)

    def encode(self, texts: Sequence[str], images: Sequence[Sequence[np.ndarray]]) -> dict[str, Any]:
        """Inputs for a batch of B instructions and, for each, its images uint8 [H, W, 3], of any sizes.

        As ``encode_prompts``, with ``pixel_values`` float32 [P, 3 x 2 x 16 x 16], the patches of all images. Raises
        ``DatasetError`` for what is no image, or an instruction with an image's token in it.
        """
        every = [image for views in images for image in views]
        for image in every:
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
                raise DatasetError(
                    f"An image is {image.dtype} {list(image.shape)}.", "It must be uint8 [height, width, 3]."
                )
        inputs = self.encode_prompts(texts, [[image.shape[:2] for image in views] for views in images])
        grids = [(rows, columns) for _, rows, columns in inputs["image_grid_thw"].tolist()]
        ends = np.cumsum([rows * columns for rows, columns in grids]).tolist()
        pixels = np.empty((ends[-1], self.patches.width), dtype=np.float32)
        for image, grid, end in zip(every, grids, ends, strict=True):
            planes = np.ascontiguousarray(image.transpose(2, 0, 1))
            write_patches(planes, grid, self.patches, pixels[end - grid[0] * grid[1] : end])
        return {**inputs, "pixel_values": torch.from_numpy(pixels)}

    def encode_prompts(self, texts: Sequence[str], sizes: Sequence[Sequence[tuple[int, int]]]) -> dict[str, Any]:
        """The inputs for B instructions that are not pixels, with images of these heights and widths for each.

        ``input_ids`` int64 [B, N], left-padded, ``attention_mask`` int64 [B, N], 0 where padded, and
        ``image_grid_thw`` int64 [images, 3]; also, so that nobody has to ask a GPU for it, ``unpadded``, whether no
        token is padding, and the fields of ``Positions``.
        """
        grids = [[self._grid(*size) for size in views] for views in sizes]
        merged = self.images.merge_size**2
        prompts = [
            self._prompt(text, tuple(height * width // merged for height, width in views))
            for text, views in zip(texts, grids, strict=True)
        ]
        input_ids, mask, unpadded = padded(prompts, self._pad_token)
        every = [grid for views in grids for grid in views]
        return {
            "input_ids": input_ids,
            "attention_mask": mask,
            "image_grid_thw": torch.tensor([[1, *grid] for grid in every]),
            "unpadded": unpadded,
            **find_positions(input_ids, mask, every, self._qwen)._asdict(),
        }

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        """How many patches an image has, down and across."""
        try:
            height, width = self.images.resized(height, width)
        except ValueError as error:
            raise DatasetError(f"An image of {[height, width]} pixels: {error}.", "Use another camera.") from error
        return height // self.images.patch_size, width // self.images.patch_size

    def _prompt(self, instruction: str, image_tokens: tuple[int, ...]) -> torch.Tensor:
        """Token ids of one prompt; with few instructions and many steps this is nearly always a look-up."""
        cached = self._prompts.get((instruction, image_tokens))
        if cached is not None:
            return cached
        text = prompt_text(instruction, image_tokens)
        prompt = torch.tensor(self.tokenizer.encode(text, add_special_tokens=False).ids, dtype=torch.int64)
        if int((prompt == self._qwen.image_token_id).sum()) != sum(image_tokens):
            raise DatasetError(
                f"The instruction {instruction!r} contains the model's own token {IMAGE_TOKEN}.",
                "Write the instruction in plain words in meta/tasks.jsonl.",
            )
        self._prompts[instruction, image_tokens] = prompt
        return prompt
