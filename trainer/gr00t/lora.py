"""LoRA adapters for GR00T, through peft (upstream's ``gr00t/utils/peft.py``).

A LoRA run is saved twice in each checkpoint. The checkpoint itself is an ordinary full model with the adapters merged
into the weights: it evaluates, acts, and trains on anywhere, also upstream, without peft. Its subfolder ``adapter``
holds the adapters as peft writes them (``adapter_config.json``, ``adapter_model.safetensors``), small enough to keep
or share alone, and exact enough to resume from: the base model plus the adapters is the model that was trained, while
merged weights are rounded. It is a subfolder because transformers, and so upstream, takes an ``adapter_config.json``
beside the weights for a checkpoint that has adapters only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from trainer.errors import UsageError
from trainer.gr00t.weight_files import ADAPTER
from trainer.gr00t.weights import GrootModel

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_NAME = "default"
_TARGETS = ("q_proj", "k_proj", "v_proj", "to_q", "to_k", "to_v")
_PROJECTOR = ("state_encoder", "action_encoder", "action_decoder", "position_embedding")
_ROUNDING = 0.02
"""Relative difference of two merges of the same adapters in bfloat16, generously."""


def lora_targets(model: nn.Module, full_model: bool) -> list[str]:
    """Names of the linear layers that get adapters: every query, key and value projection.

    Those of the action head (60 in the official model), with ``full_model`` those of the backbone too (177).
    """
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and any(target in name for target in _TARGETS)
        and (full_model or "action_head" in name)
    ]


def add_lora(
    model: GrootModel, *, rank: int, alpha: int, dropout: float, full_model: bool = False, train_projector: bool = True
) -> None:
    """Freeze ``model`` and give it adapters of ``rank``, scaled by ``alpha`` / ``rank``, to train instead.

    ``train_projector`` also trains what ``tune_projector`` means without LoRA: encoders, decoder and positions.
    Upstream never does, so a new embodiment keeps an untrained projector.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.tuners_utils import cast_adapter_dtype

    targets = lora_targets(model, full_model)
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, bias="none", target_modules=targets)
    inject_adapter_in_model(config, model, adapter_name=_NAME)
    # As PeftModel does for upstream: in the backbone's bfloat16, AdamW's small steps would round to nothing.
    cast_adapter_dtype(model, _NAME)
    if train_projector:
        for name in _projector(model):
            model.get_submodule(name).requires_grad_(True)
    model.train(model.training)


def merged_state(
    model: GrootModel, weights: Mapping[str, torch.Tensor] | None = None
) -> tuple[dict[str, torch.Tensor], set[str]]:
    """The weights with the adapters merged in, under the names they have without LoRA, and which of them change.

    ``weights`` replaces the model's own (gathered from several processes), with the adapters among them.
    """
    from peft.tuners.lora import LoraLayer

    adapted = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    parameters = dict(model.named_parameters())
    weights = model.state_dict() if weights is None else weights
    state: dict[str, torch.Tensor] = {}
    changing: set[str] = set()
    for stored, tensor in weights.items():
        if ".lora_" in stored:
            continue
        name = stored.replace(".base_layer.", ".")
        path = name.removesuffix(".weight")
        if path in adapted and path != name:
            tensor = (tensor.float() + _delta(adapted[path], path, weights)).to(tensor.dtype)
            changing.add(name)
        elif stored in parameters and parameters[stored].requires_grad:
            changing.add(name)
        state[name] = tensor
    return state, changing


def adapter_state(model: GrootModel, weights: Mapping[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """The adapters, and the projector where it is trained, under the names peft gives them on disk; ``weights`` as of
    ``merged_state``.
    """
    trained = _trained(model)
    weights = trained if weights is None else weights
    return {_on_disk(name): weights[name].detach().contiguous() for name in trained}


def save_adapter(model: GrootModel, folder: Path, state: dict[str, torch.Tensor] | None = None) -> None:
    """Write ``adapter_state`` (or a copy of it, ``state``) as peft does; ``PeftModel`` loads it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _CONFIG).write_text(json.dumps(_describe(model), indent=2, sort_keys=True) + "\n")
    save_file(adapter_state(model) if state is None else state, folder / _WEIGHTS, metadata={"format": "pt"})


def require_lora_of(checkpoint: Path) -> None:
    """Raise ``UsageError`` where a training without LoRA would continue from a ``checkpoint`` of one with it."""
    if (checkpoint / ADAPTER).is_dir():
        raise UsageError(
            f"{checkpoint} was trained with LoRA.",
            "Resume with its LoRA flags, or leave --resume out and give it as --base-model-path to train all of it.",
        )


def load_adapter(model: GrootModel, checkpoint: Path) -> None:
    """Fill the adapters of ``model``, made by ``add_lora`` over the base model, with those of a checkpoint.

    Raises ``UsageError`` when the checkpoint has none, or others than these, or when ``model`` is not the base model
    they were trained on.
    """
    folder = checkpoint / ADAPTER
    try:
        saved = json.loads((folder / _CONFIG).read_text())
        tensors = load_file(folder / _WEIGHTS)
    except FileNotFoundError:
        raise UsageError(f"{checkpoint} was not trained with LoRA.", "Leave --lora-rank out to resume it.") from None
    except (ValueError, SafetensorError) as error:
        raise UsageError(
            f"{folder} is damaged ({error}).", "Remove the checkpoint and resume the one before."
        ) from error
    ours = _describe(model)
    differing = [key for key in ours if key != "base_model_name_or_path" and saved.get(key) != ours[key]]
    trained = _trained(model)
    if differing or {_on_disk(name) for name in trained} != set(tensors):
        raise UsageError(
            f"{checkpoint} was trained with other LoRA flags ({', '.join(differing) or 'other layers'} differ).",
            "Resume with the flags the run began with.",
        )
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(tensors[_on_disk(name)])
    _check_base(model, checkpoint)


def _check_base(model: GrootModel, checkpoint: Path) -> None:
    """The base model with the adapters must be the merged model beside them."""
    state, changing = merged_state(model)
    saved = {
        name: tensor for file in sorted(checkpoint.glob("*.safetensors")) for name, tensor in _named(file, changing)
    }
    for name in sorted(changing):
        if (saved[name].float() - state[name].float()).norm() > _ROUNDING * saved[name].float().norm():
            raise UsageError(
                f"--base-model-path is not the model that {checkpoint} was trained on ({name} differs).",
                "A LoRA run is resumed with the base model it began with.",
            )


def _named(file: Path, names: set[str]) -> list[tuple[str, torch.Tensor]]:
    from safetensors import safe_open

    with safe_open(file, "pt") as tensors:
        return [(name, tensors.get_tensor(name)) for name in tensors.keys() if name in names]  # noqa: SIM118


def _delta(layer: Any, path: str, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """What the adapters of ``layer``, which lies at ``path``, add to its weight."""
    a, b = (weights[f"{path}.{part}.{_NAME}.weight"] for part in ("lora_A", "lora_B"))
    return layer.scaling[_NAME] * (b.detach().float() @ a.detach().float())


def _trained(model: GrootModel) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _projector(model: GrootModel) -> list[str]:
    return [f"action_head.{name}" for name in _PROJECTOR if hasattr(model.action_head, name)]


def _on_disk(name: str) -> str:
    return _PREFIX + name.replace(f".{_NAME}.", ".")


def _describe(model: GrootModel) -> Mapping[str, Any]:
    """The peft configuration of the adapters in ``model``, with the projector as ``modules_to_save`` where trained."""
    config = dict(model.peft_config[_NAME].to_dict())  # pyrefly: ignore[missing-attribute]
    config["base_model_name_or_path"] = model.config.name_or_path
    config["inference_mode"] = True
    projector = [name for name in _projector(model) if next(model.get_submodule(name).parameters()).requires_grad]
    config["modules_to_save"] = projector or None
    return {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
