"""A base model's folder, before anything heavy touches it: is it one, is it whole, does it have its tokenizer?

No torch here: the store takes base models in, and gives them out, in light processes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from trainer.config.settings import hub_token
from trainer.errors import UsageError
from trainer.generation import Generation
from trainer.gr00t.weight_files import weights_problem
from trainer.wrong_values import first_problem

T = TypeVar("T")


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


def resolve_folder(path: str | PathLike[str]) -> Path:
    """The folder of a model: ``path`` itself where it is one, else a download of that name from the hub.

    Raises ``UsageError`` when it is neither, or the hub can't be reached.
    """
    folder = Path(path)
    if folder.is_dir():
        return folder.absolute()
    hint = "Give the folder of a GR00T base model or checkpoint, or a hub id such as nvidia/GR00T-N1.5-3B."
    if folder.is_absolute() or str(path).count("/") != 1:
        raise UsageError(f"There is no model folder {path}.", hint)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        patterns = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
        return Path(snapshot_download(str(path), allow_patterns=patterns, token=hub_token()))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UsageError(
            f"{path} is not a folder here, and could not be loaded from the Hugging Face Hub ({type(error).__name__}).",
            hint + " Offline, download it beforehand; a gated model needs HF_TOKEN.",
        ) from error


def read_config_json(folder: Path, generation: Generation, made: Callable[[dict[str, Any]], T]) -> T:
    """What ``made`` makes of ``folder/config.json``, which must be that of a model of ``generation``.

    Raises ``UsageError`` when the file is missing, is not JSON, belongs to another kind of model, or ``made`` raises
    pydantic's ``ValidationError``.
    """
    path = folder / "config.json"
    hint = f"A base model or checkpoint of {generation} is a folder with config.json and *.safetensors."
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        reason = "is not JSON" if path.is_file() else "does not exist"
        raise UsageError(f"{path} {reason}.", hint) from error
    found = values.get("model_type") or values.get("type") or "nameless"
    if found != generation.model_type:
        raise UsageError(f"{path} describes a {found!r} model, not {generation.model_type!r}.", hint)
    try:
        return made(values)
    except ValidationError as error:
        raise UsageError(f"{path} is not a configuration of {generation}: {first_problem(error)}.", hint) from error


def require_whole(folder: Path) -> None:
    """Raise ``UsageError`` when a shard is missing or cut short. Reads the files' headers only."""
    try:
        problem = weights_problem(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"{type(error).__name__}: {error}"
    if problem:
        raise UsageError(f"{folder} is not a whole model: {problem}.", "Download or copy it again.")
