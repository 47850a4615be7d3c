"""Qwen's tokenizer, which the prompts of every generation are encoded with, in the folder of a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from tokenizers import Tokenizer
from transformers import Qwen2Tokenizer

from trainer.config.settings import hub_token
from trainer.errors import UsageError
from trainer.gr00t.base_model import TOKENIZER_FILES, has_tokenizer
from trainer.hardlink import link_or_copy

PAD_TOKEN = "<|endoftext|>"  # noqa: S105 - a token of a tokenizer


def padded(prompts: Sequence[torch.Tensor], pad_token: int) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """Tokens [L] of B prompts as one int64 tensor [B, T], padded on the left, its mask, and whether none is padded."""
    length = max(map(len, prompts))
    input_ids = torch.full((len(prompts), length), pad_token)
    mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, length - len(prompt) :] = prompt
        mask[row, length - len(prompt) :] = 1
    return input_ids, mask, all(len(prompt) == length for prompt in prompts)


def save_tokenizer(tokenizer: Tokenizer, folder: Path, same_as: Path | None = None) -> None:
    """Write the files of ``tokenizer`` into ``folder``, or link those of the folder ``same_as`` it was saved in before.

    Qwen's takes 0.15 s to write, and keeps Python's lock meanwhile.
    """
    file, settings_file = folder / "tokenizer.json", folder / "tokenizer_config.json"
    if same_as and (same_as / file.name).is_file() and (same_as / settings_file.name).is_file():
        link_or_copy(same_as / file.name, file)
        link_or_copy(same_as / settings_file.name, settings_file)
        return
    tokenizer.save(str(file))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": PAD_TOKEN,
        "padding_side": "left",
    }
    settings_file.write_text(json.dumps(settings, indent=2) + "\n")


def load_tokenizer(folder: Path, hub: str) -> Tokenizer:
    """The tokenizer in a model's ``folder`` or, where it has none, of the repository ``hub``. Raises ``UsageError``."""
    if not has_tokenizer(folder):
        try:
            files = list(TOKENIZER_FILES)
            folder = Path(snapshot_download(hub, allow_patterns=files, token=hub_token()))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            raise UsageError(
                f"{folder} has no tokenizer.json, and {hub} could not be fetched from the Hugging Face Hub "
                f"({type(error).__name__}).",
                f"Where there is a network, run `hf download {hub}` and copy its files into the folder.",
            ) from error
    try:
        if (folder / "tokenizer.json").is_file():
            return Tokenizer.from_file(str(folder / "tokenizer.json"))
        return Qwen2Tokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer
    except Exception as error:  # tokenizers raises bare Exception for a file it can't parse
        raise UsageError(f"The tokenizer files in {folder} can't be read ({error}).", "Copy them again.") from error
