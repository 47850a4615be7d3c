"""``EagleProcessor``: instructions and camera images to the backbone's inputs.

Follows upstream's ``eagle2_hg_model/processing_eagle2_5_vl.py`` and its chat template, for the one case GR00T N1.5
uses: a user turn with one 224x224 image per camera, then the instruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from trainer.errors import DatasetError, UsageError
from trainer.generation import N15
from trainer.gr00t.base_model import resolve_folder
from trainer.gr00t.n15.config import read_config
from trainer.gr00t.n15.sections import EagleConfig
from trainer.gr00t.parts.tokenizer import PAD_TOKEN, load_tokenizer, padded, save_tokenizer

IMAGE_TOKEN = "<IMG_CONTEXT>"  # noqa: S105 - a token of a tokenizer
SPECIAL_TOKENS = (PAD_TOKEN, "<|im_start|>", "<|im_end|>", IMAGE_TOKEN, "<img>", "</img>")


def prompt_text(instruction: str, views: int, image_tokens: int) -> str:
    """The whole prompt of one sample, with ``image_tokens`` placeholders per camera image."""
    images = "".join(f"<image {k}><img>{IMAGE_TOKEN * image_tokens}</img>" for k in range(1, views + 1))
    return (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{images}{instruction}<|im_end|>\n<|im_start|>assistant\n"
    )


class EagleProcessor:
    """Turns instructions and images into the backbone's inputs; each instruction is tokenised once."""

    def __init__(self, tokenizer: Tokenizer, eagle: EagleConfig) -> None:
        """``tokenizer`` must know the image token under the id ``eagle`` names, else ``UsageError``."""
        found, pad = tokenizer.token_to_id(IMAGE_TOKEN), tokenizer.token_to_id(PAD_TOKEN)
        if found != eagle.image_token_index or pad is None:
            raise UsageError(
                f"The tokenizer gives {IMAGE_TOKEN} the id {found}, the model wants {eagle.image_token_index}.",
                "Use the tokenizer files that belong to this base model.",
            )
        self.tokenizer = tokenizer
        self._pad_token = pad
        self.image_size = eagle.force_image_size
        self.image_tokens = eagle.image_tokens
        self._image_token = eagle.image_token_index
        self._prompts: dict[tuple[str, int], torch.Tensor] = {}

    @classmethod
    def from_directory(cls, path: str | PathLike[str]) -> EagleProcessor:
        """The processor of the base model or checkpoint in folder ``path``, or of that name on the hub.

        A folder without tokenizer files, as the official one, gets those of ``N15.tokenizer`` from the hub or its
        cache. Raises ``UsageError`` when there is no config.json, or the tokenizer can't be fetched.
        """
        folder = resolve_folder(path)
        return cls(load_tokenizer(folder, N15.tokenizer), read_config(folder).eagle)

    def save_pretrained(self, folder: str | PathLike[str], same_as: Path | None = None) -> None:
        """Write the tokenizer's files, so that a checkpoint in ``folder`` is a base model by itself.

        ``same_as`` is a folder that this processor was saved in before: its files are linked, not written again. The
        official tokenizer takes 0.15 s to write, and keeps Python's lock meanwhile.
        """
        save_tokenizer(self.tokenizer, Path(folder), same_as)

    def encode(self, texts: Sequence[str], images: Sequence[np.ndarray]) -> dict[str, Any]:
        """Inputs for a batch of B instructions and, for each, its camera images uint8 [V, H, W, 3].

        ``eagle_input_ids`` int64 [B, N], left-padded, ``eagle_attention_mask`` int64 [B, N], 0 where padded, and
        ``eagle_pixel_values`` float32 [B x V, 3, H, W] in [-1, 1]. Also what the model would have to wait for a GPU to
        know: ``eagle_unpadded``, whether no token is padding, and ``eagle_image_tokens``, how many are images'.
        Raises ``DatasetError`` for images of another size or type, or an instruction with a special token in it.
        """
        return {
            **self.encode_prompts(texts, [len(views) for views in images]),
            "eagle_pixel_values": self._pixels(images),
        }

    def encode_prompts(self, texts: Sequence[str], views: Sequence[int]) -> dict[str, Any]:
        """The same without the pixel values, for instructions with so many camera images each."""
        prompts = [self._prompt(text, count) for text, count in zip(texts, views, strict=True)]
        input_ids, mask, unpadded = padded(prompts, self._pad_token)
        return {
            "eagle_input_ids": input_ids,
            "eagle_attention_mask": mask,
            "eagle_unpadded": unpadded,
            "eagle_image_tokens": self.image_tokens * sum(views),
        }

    def _prompt(self, instruction: str, views: int) -> torch.Tensor:
        """Token ids of one prompt; with few instructions and many steps this is nearly always a look-up."""
        cached = self._prompts.get((instruction, views))
        if cached is not None:
            return cached
        text = prompt_text(instruction, views, self.image_tokens)
        prompt = torch.tensor(self.tokenizer.encode(text, add_special_tokens=False).ids, dtype=torch.int64)
        if int((prompt == self._image_token).sum()) != views * self.image_tokens:
            raise DatasetError(
                f"The instruction {instruction!r} contains the model's own token {IMAGE_TOKEN}.",
                "Write the instruction in plain words in meta/tasks.jsonl.",
            )
        self._prompts[instruction, views] = prompt
        return prompt

    def _pixels(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        size = self.image_size
        for views in images:
            if views.dtype != np.uint8 or views.ndim != 4 or views.shape[1:] != (size, size, 3):
                raise DatasetError(
                    f"Images are {views.dtype} {list(views.shape)}; the model takes uint8 [views, {size}, {size}, 3].",
                    f"The data config's transforms must resize images to {size}x{size}.",
                )
        stacked = torch.from_numpy(np.concatenate(images)).permute(0, 3, 1, 2)
        return stacked.to(torch.float32, memory_format=torch.contiguous_format).div_(127.5).sub_(1.0)
