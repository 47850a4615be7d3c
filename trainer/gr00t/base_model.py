"""A base model's folder, before anything heavy touches it: is it one, is it whole, does it have its tokenizer?

No torch here: the store takes base models in, and gives them out, in light processes.
"""

from __future__ import annotations

import json
from pathlib import Path

from trainer.errors import UsageError
from trainer.gr00t.weight_files import weights_problem

MODEL_TYPE = "gr00t_n1_5"

HUB_TOKENIZER = "lerobot/eagle2hg-processor-groot-n1p5"
"""Tokenizer files of the official backbone; nvidia/GR00T-N1.5-3B has none, upstream ships them in its package.

No revision is pinned: the repository states none to rely on. What is fetched is checked against the model (the image
token's id), and a base model in the store keeps the files it was taken in with, and their commit.
"""

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
)


def has_tokenizer(folder: Path) -> bool:
    """Whether ``folder`` has a tokenizer, in the form of ``tokenizers`` or in Qwen's older one."""
    return (folder / "tokenizer.json").is_file() or (folder / "vocab.json").is_file()


def is_groot(folder: Path) -> bool:
    """Whether ``folder/config.json`` is that of a GR00T N1.5. Raises ``UsageError`` when it is another model's."""
    file = folder / "config.json"
    try:
        found = json.loads(file.read_text()).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"{file} can't be read as JSON.", "Download the model again.") from error
    if found not in (None, MODEL_TYPE):
        raise UsageError(
            f"{file} describes a {found!r} model, not {MODEL_TYPE!r}.",
            "pippa trains GR00T N1.5: nvidia/GR00T-N1.5-3B, or a checkpoint of it. N1, N1.6 and N1.7 are other models.",
        )
    return found is not None


def require_whole(folder: Path) -> None:
    """Raise ``UsageError`` when a shard is missing or cut short. Reads the files' headers only."""
    try:
        problem = weights_problem(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"{type(error).__name__}: {error}"
    if problem:
        raise UsageError(f"{folder} is not a whole model: {problem}.", "Download or copy it again.")
