"""Weights on disk: upstream's names in safetensors, single or sharded, with an index.

Checkpoints keep frozen and trained parameters in separate shards with the same bytes every time, so that a store that
addresses contents keeps the frozen ones once per base model, and each further checkpoint costs what was trained.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Set
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from trainer.errors import UsageError
from trainer.hardlink import link_or_copy

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_LEROBOT_PREFIX = "_groot_model."
_SHARD_BYTES = 5_000_000_000


class Layout(NamedTuple):
    """What a generation's files have that another's have not."""

    read_config: Callable[[Path], PreTrainedConfig]
    """The configuration in a folder; raises ``UsageError``."""
    config_document: Callable[[Any, str], dict[str, Any]]
    """What ``config.json`` says of a configuration and the first weight's dtype, as upstream writes it."""
    embeddings: str
    """The language model's token embeddings."""
    lm_head: str
    """The same matrix as ``embeddings``; a file may hold either or both. Never computed with, never written."""
    upstream_name: Callable[[str], str] = str
    """The name upstream gives a tensor, of that which newer libraries have saved it under."""


class GrootModel(PreTrainedModel):
    """A GR00T of any generation: how it lies on disk."""

    layout: ClassVar[Layout]
    backbone: Any
    action_head: Any
    base_model_prefix = ""
    supports_gradient_checkpointing = False
    _supports_sdpa = True

    def pieces(self) -> list[nn.Module]:
        """What is gathered at a time where the parameters are divided between processes, the inner before the outer.

        These are each transformer layer, the large tables, and the backbone with what is left of it. Each is called as
        a whole, and has trained parameters of one dtype.
        """
        raise NotImplementedError

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: every module has initialised itself when it was made."""

    def save_pretrained(  # pyrefly: ignore[bad-override]
        self,
        save_directory: str | PathLike[str],
        is_main_process: bool = True,
        state_dict: dict[str, torch.Tensor] | None = None,
        **_: Any,
    ) -> None:
        """Write config.json and the weights in shards (see ``save_checkpoint``); what Trainer calls."""
        if is_main_process:
            save_checkpoint(self, Path(save_directory), state_dict=state_dict)


Model = TypeVar("Model", bound=GrootModel)


def _shards(folder: Path) -> dict[str, Path]:
    """Every tensor's name in the files of ``folder`` and the file it is in. Reads the files' headers only."""
    hint = "Download or copy the model again: the folder is incomplete."
    if (index := folder / INDEX).is_file():
        try:
            named = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            if outside := [name for name in named if Path(name).name != name]:
                raise ValueError(f"{outside[0]!r} is no file of the folder")
            files = [folder / name for name in named]
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise UsageError(f"{index} is not an index of safetensors shards.", hint) from error
    else:
        files = [folder / SINGLE]
    names: dict[str, Path] = {}
    for file in files:
        if not file.is_file():
            raise UsageError(f"{file} does not exist.", hint)
        try:
            with safe_open(file, "pt") as tensors:
                names.update(dict.fromkeys(tensors.keys(), file))
        except (SafetensorError, OSError) as error:
            raise UsageError(f"{file} is damaged or cut short ({error}).", hint) from error
    return names


def _match(folder: Path, found: Mapping[str, Path], wanted: set[str], layout: Layout) -> dict[str, tuple[Path, str]]:
    """For every wanted parameter the file and the name it has there. Raises ``UsageError`` where they don't agree."""
    sources = {layout.upstream_name(name.removeprefix(_LEROBOT_PREFIX)): (file, name) for name, file in found.items()}
    head = sources.pop(layout.lm_head, None)
    if head is not None:
        sources.setdefault(layout.embeddings, head)
    missing, unexpected = sorted(wanted - set(sources)), sorted(set(sources) - wanted)
    if missing or unexpected:
        files = ", ".join(sorted({file.name for file in found.values()}))
        problems = [
            f"{len(names)} {kind} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
            for kind, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        raise UsageError(
            f"The weights in {folder} ({files}) are not those of its config.json: {'; '.join(problems)}.",
            "Use config.json and weights of the same model.",
        )
    return sources


def load_checkpoint(model_class: type[Model], folder: Path, dtype: torch.dtype | None = None) -> Model:
    """Build the model of ``folder/config.json`` and fill it with the weights beside it, each read once.

    Tensors are cast to ``dtype`` or, without one, to what the model has them in (see its ``from_pretrained``).
    Names, shapes and files are checked before anything is read. Raises ``UsageError`` naming the file and the tensor.
    """
    config = model_class.layout.read_config(folder)
    with torch.device("meta"):
        model = model_class(config)
    empty = model.state_dict()
    sources = _match(folder, _shards(folder), set(empty), model_class.layout)
    by_file: dict[Path, dict[str, str]] = {}
    for name, (file, stored) in sources.items():
        by_file.setdefault(file, {})[stored] = name
    state: dict[str, torch.Tensor] = {}
    for file, names in by_file.items():
        with safe_open(file, "pt") as tensors:
            for stored, name in names.items():
                shape, expected = tuple(tensors.get_slice(stored).get_shape()), tuple(empty[name].shape)
                if shape != expected:
                    raise UsageError(
                        f"{file}: {stored} has shape {shape}, config.json means {expected}.",
                        "Use config.json and weights of the same model.",
                    )
                # A copy, so that no parameter is a window into a file that may be replaced while we train.
                state[name] = tensors.get_tensor(stored).to(dtype or empty[name].dtype, copy=True)
    model.load_state_dict(state, assign=True)
    model.config.name_or_path = str(folder)
    return model


def trained_state(model: GrootModel) -> tuple[dict[str, torch.Tensor], set[str]]:
    """The weights of ``model``, and which of them change while it is trained."""
    return model.state_dict(), {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def save_checkpoint(
    model: GrootModel,
    folder: Path,
    *,
    state_dict: Mapping[str, torch.Tensor] | None = None,
    trained: Set[str] | None = None,
    frozen_from: Path | None = None,
) -> None:
    """Write ``config.json``, the weights in shards of at most 5 GB, and last their index: without it nothing loads.

    Shards hold either frozen or trained parameters, in the order of the model, so that the frozen shards have the same
    names and bytes at every step. ``state_dict`` replaces the model's own (gathered from several processes, say), and
    ``trained`` the names of those that differ from step to step. ``frozen_from`` is a checkpoint that was saved of the
    same model with the same arguments: its frozen shards are linked, not written again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if state_dict is None or trained is None:
        own_state, own_trained = trained_state(model)
        state_dict = own_state if state_dict is None else state_dict
        trained = own_trained if trained is None else trained
    state = dict(state_dict)
    shards: list[dict[str, torch.Tensor]] = []
    for names in ([n for n in state if n not in trained], [n for n in state if n in trained]):
        room = 0
        for name in names:
            tensor = state[name].detach()
            size = tensor.numel() * tensor.element_size()
            if size > room:
                shards.append({})
                room = max(_SHARD_BYTES, size)
            shards[-1][name] = tensor.contiguous()
            room -= size
    config = model.layout.config_document(model.config, str(next(iter(state.values())).dtype).removeprefix("torch."))
    config_file = folder / "config.json"
    config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = folder / f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        if frozen_from and trained.isdisjoint(shard) and (frozen_from / file.name).is_file():
            link_or_copy(frozen_from / file.name, file)
        else:
            save_file(shard, file, metadata={"format": "pt"})
            file.chmod(config_file.stat().st_mode)  # safetensors makes files readable by the owner only
        weight_map.update(dict.fromkeys(shard, file.name))
    total = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
