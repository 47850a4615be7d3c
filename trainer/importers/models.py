"""A base model's folder, made whole, since NVIDIA's has no tokenizer; and the licence of its weights."""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from trainer.errors import UsageError
from trainer.generation import generation_in
from trainer.gr00t import base_model as base_model_folder
from trainer.importers import hub
from trainer.importers.downloads import Log
from trainer.importers.names import HubRepository
from trainer.importers.normalize_dataset import linked, refuse_pointers


def require_supported(folder: Path) -> None:
    """Raise ``UsageError`` where ``folder/config.json`` is that of a model pippa does not train; it may be all there is
    yet of a download.
    """
    if (folder / "config.json").is_file():
        generation_in(folder)


@contextmanager
def completed(folder: Path, name: str, work: Path, log: Log) -> Generator[tuple[Path, dict[str, str]]]:
    """``folder``, or a temporary one of links to its files and a tokenizer, and where the tokenizer came from.

    Raises ``UsageError`` for what is no model of this architecture or not whole, ``DatasetError`` for git-lfs pointers.
    """
    if not (folder / "config.json").is_file():
        raise UsageError(f"{name} is not a model: it has no config.json.", "Name the folder or repository of one.")
    refuse_pointers(folder, name)
    generation = generation_in(folder)
    if generation is None:
        yield folder, {}
        return
    base_model_folder.require_whole(folder)
    if base_model_folder.has_tokenizer(folder):
        yield folder, {}
        return
    tokenizer = generation.tokenizer
    repository = HubRepository(tokenizer, None)
    log(f"The model has no tokenizer; taking {tokenizer} from the Hugging Face hub.")
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work, prefix="model-") as temporary:
        whole = linked(folder, Path(temporary))
        try:
            commit = hub.commit_of(repository, "model", tokenizer)
            hub.download(repository, commit, "model", whole, tokenizer, log, only=base_model_folder.TOKENIZER_FILES)
        except UsageError as error:
            raise UsageError(
                f"The model has no tokenizer.json, and {tokenizer} is not available from the Hugging Face hub "
                f"({hub.reason(error.__cause__ or error)}).",
                f"On a machine with network: `hf download {tokenizer} --local-dir TOKENIZER`; copy its *.json (not "
                "config.json) and merges.txt beside the model's files, then `pippa models add ./FOLDER`.",
            ) from error
        yield whole, {"tokenizer": f"{tokenizer}@{commit}"}


def licensed(folder: Path, log: Log) -> dict[str, str]:
    """Say which licence the weights in ``folder`` have; what a snapshot's origin keeps of it."""
    generation = generation_in(folder)
    if generation is None:
        return {}
    log(str(generation.license))
    return {"license": generation.license.name}
