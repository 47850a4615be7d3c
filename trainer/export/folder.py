"""The folder that ``pippa checkpoints export`` writes: the policy, its model card, and nothing of this machine.

Of a checkpoint's files those go out that loading needs, here and upstream. What only a training needs (optimizer,
scheduler, random state, ``trainer_state.json``) stays in the store, and a path of this machine in a JSON file becomes
the base model's name, or its last part.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from trainer.errors import StoreError, UsageError
from trainer.export.model_card import Lineage, model_card
from trainer.generation import GENERATIONS, generation_in
from trainer.gr00t.weight_files import ADAPTER
from trainer.store import registry, runs, snapshots
from trainer.store.manifest import read_manifest
from trainer.store.object_store import ObjectStore
from trainer.store.registry import CheckpointEntry
from trainer.store.resume_points import is_training_state

Progress = Callable[[int, int], None]

CARD, PLOTS = "README.md", "plots"
_FOLDERS = ("", "experiment_cfg", "processor")
"""Where a checkpoint has files that loading needs: beside the weights, and where upstream's engines put the rest."""
_ADAPTERS = f"{ADAPTER}/adapter_"
_PROCESSORS = {name for generation in GENERATIONS for name in generation.processor_files}
_KINDS = {".json", ".safetensors", ".txt", ".jinja"}
_TRAININGS_OWN = {"trainer_state.json"}
_TOKENS = {"tokenizer.json", "vocab.json", "merges.txt"}
"""Files of texts that may look like paths and are none."""
_LARGEST_JSON = 4 << 20
"""Bytes; a JSON file with settings is far smaller."""
_PATH = re.compile(r"/|~[/\\]|\\\\|[A-Za-z]:[/\\]")


def require_free(folder: Path) -> None:
    """Raise ``UsageError`` unless ``folder`` is free to be written: it does not exist, or is empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not an empty folder.", "Name another folder, or remove it first.")


def export(
    store: ObjectStore,
    entry: CheckpointEntry,
    folder: Path,
    *,
    adapter: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write the checkpoint ``entry`` to ``folder``, which appears complete or not at all.

    With ``adapter`` the LoRA adapters alone, as peft reads them, and what says how to use them. Every file is verified
    against the store. Raises ``UsageError`` for a folder with content and for a checkpoint without adapters,
    ``DiskFullError``, and ``StoreError`` when the store is away or a file is damaged.
    """
    require_free(folder)
    if adapter and not any(file.path.startswith(_ADAPTERS) for file in read_manifest(store, entry.snapshot).files):
        raise UsageError(
            f"{entry.name} has no LoRA adapters: it was not trained with --lora-rank.",
            f"`pippa checkpoints export {entry.name} FOLDER` writes the whole checkpoint.",
        )
    with _appearing(folder) as made:
        snapshots.fetch(store, entry.snapshot, made, _of_the_adapter if adapter else _of_the_policy, progress=progress)
        if adapter:
            for file in (made / ADAPTER).iterdir():
                file.rename(made / file.name)
            (made / ADAPTER).rmdir()
        lineage = _lineage(store, entry, made)
        if adapter:
            (made / "config.json").unlink()  # the merged model's: peft's loader reads adapter_config.json
        for file in sorted(made.rglob("*.json")):
            _forget_paths(file, lineage.base_model)
        plots = _plots(store, entry, made / PLOTS)
        card = model_card(entry, lineage, [f"{PLOTS}/{name}" for name in plots], made, adapter=adapter)
        (made / CARD).write_text(card, encoding="utf-8")


def _of_the_policy(path: str) -> bool:
    """Whether loading the checkpoint needs the file at ``path``."""
    parts = PurePosixPath(path)
    where = "" if parts.parent == PurePosixPath() else str(parts.parent)
    return (
        where in _FOLDERS
        and parts.suffix in _KINDS
        and parts.name not in _TRAININGS_OWN
        and not is_training_state(parts.name)
    )


def _of_the_adapter(path: str) -> bool:
    """Whether the adapters alone need the file at ``path``: they themselves, data config and statistics.

    ``config.json`` tells what model they are for. Some generations have their statistics beside the weights.
    """
    return path in ("config.json", *_PROCESSORS) or (
        path.startswith((_ADAPTERS, "experiment_cfg/")) and PurePosixPath(path).suffix in _KINDS
    )


def _lineage(store: ObjectStore, entry: CheckpointEntry, made: Path) -> Lineage:
    """Where its base model and datasets came from, as the store keeps it; what is damaged there is left out.

    ``made`` has the checkpoint's config.json.
    """

    def origin(ref: Any) -> dict[str, str]:
        try:
            return read_manifest(store, ref).origin
        except StoreError:
            return {}

    base = origin(entry.spec.base_model)
    return Lineage(
        base_model=base.get("hub") or entry.spec.base_model.name,
        base_revision=base.get("revision", ""),
        base_is_on_hub="hub" in base,
        base_is_generated="generator" in base,
        generation=generation_in(made),
        datasets=[(ref, origin(ref).get("hub")) for ref in entry.spec.datasets],
    )


@contextmanager
def _appearing(folder: Path) -> Generator[Path]:
    """A folder that becomes ``folder`` when the block ends well, and is removed otherwise."""
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = folder.with_name(f".{folder.name}.exporting")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    try:
        yield made
        require_free(folder)
        made.replace(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _forget_paths(file: Path, base_model: str) -> None:
    """Take paths of the machine that trained out of a JSON file; it stays as it is where there are none."""
    if file.name in _TOKENS or file.stat().st_size > _LARGEST_JSON:
        return
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return  # whatever it is, it is the engine's
    changed = _without_paths(document, base_model)
    if changed != document:
        file.write_text(json.dumps(changed, indent=2) + "\n", encoding="utf-8")


def _without_paths(value: Any, base_model: str, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _without_paths(each, base_model, name) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_paths(each, base_model, key) for each in value]
    if not isinstance(value, str) or not _PATH.match(value):
        return value
    return base_model if key.endswith("name_or_path") else re.split(r"[/\\]", value.rstrip("/\\"))[-1]


def _plots(store: ObjectStore, entry: CheckpointEntry, folder: Path) -> list[str]:
    """Copy the plots of the checkpoint's evaluation, and of the run's loss, into ``folder``; their names.

    Those of the run's last checkpoint lie in the report itself, of another one in a folder with its step.
    """
    names = runs.list_files(store, entry.run_id, "report")
    own = f"report/checkpoint-{entry.step}/"
    if not any(name.startswith(own) for name in names):
        own = "report/" if entry.step == max(registry.steps_of(store, entry.run_id)) else own
    found = sorted(name for name in names if re.fullmatch(rf"{re.escape(own)}open_loop_episode_\d+\.png", name))
    chosen = [name for name in ("report/loss.png",) if name in names] + found
    for name in chosen:
        folder.mkdir(exist_ok=True)
        (folder / PurePosixPath(name).name).write_bytes(runs.read_file(store, entry.run_id, name) or b"")
    return [PurePosixPath(name).name for name in chosen]
