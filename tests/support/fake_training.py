"""A training step of the full-size model on fake tensors: nothing is computed, and every byte is counted.

Fake tensors say that they are on a GPU, so that autocast treats them as it does there. Attention alone is told which
kernel to take, since torch asks the GPU for that: flash attention, and with a mask the memory-efficient one.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Generator
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainer.config.finetune_config import FinetuneConfig
from trainer.data.configs import get_data_config
from trainer.gr00t.n15.config import GR00TN15Config
from trainer.gr00t.n15.memory import TEXT_TOKENS
from trainer.gr00t.n15.model import GR00TN15
from trainer.training.adapters import add_adapters


def meta_model(config: FinetuneConfig, **sizes: Any) -> GR00TN15:
    """The model as the engine trains it, without contents; ``sizes`` are sections of its config.json."""
    data = get_data_config(config.data_config)
    given = GR00TN15Config(**sizes)
    width = {"action_dim": data.max_action_dim, "max_action_dim": data.max_action_dim}
    given.action_head_cfg = {**(given.action_head_cfg or {}), **width, "action_horizon": data.action_horizon}
    with torch.device("meta"):
        model = GR00TN15(given)
        model.set_trainable(config.tune_llm, config.tune_visual, config.tune_projector, config.tune_diffusion_model)
        add_adapters(model, config, None)
    model.train()
    return model


def saved_bytes(config: FinetuneConfig, *, padded: bool = False) -> int:
    """What autograd saves of a forward pass on a GPU under bf16 autocast, the parameters left out.

    ``padded`` says that prompts differ in length.
    """
    saved: dict[int, tuple[int, torch.Tensor]] = {}  # the tensors too: a storage's number may be given again
    with _fake(config, "cuda") as model:
        parameters = {each.untyped_storage()._cdata for each in model.parameters()}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in parameters:
                saved[storage._cdata] = (storage.nbytes(), tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast("cuda"):
            _loss(model, config, padded)
    return sum(size for size, _ in saved.values())


def peak_bytes(config: FinetuneConfig) -> int:
    """The most that is alive at once: weights, moments, and all tensors of the forward and backward passes of a step.

    On a fake CPU, as autograd needs a real device's streams; what CUDA does otherwise there (norms in float32, masks
    of dropout in one byte) is done here as well.
    """
    live = _Live()
    with live, _fake(config, "cpu") as model, as_on_cuda():
        trained = [each for each in model.parameters() if each.requires_grad]
        moments = [torch.empty_like(each) for each in trained for _ in range(2)]
        for _ in range(config.gradient_accumulation_steps):
            with autocast("cpu"):
                loss = _loss(model, config, padded=False)
            loss.backward()
            del loss
        del moments
    return live.peak


@contextlib.contextmanager
def _fake(config: FinetuneConfig, device: str) -> Generator[GR00TN15]:
    model = meta_model(config)
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        torch.device(device),
        mock.patch.object(functional, "scaled_dot_product_attention", _attention),
    ):
        for module in model.modules():
            for name, each in list(module._parameters.items()):
                if each is not None:
                    module._parameters[name] = nn.Parameter(torch.empty_like(each, device=device), each.requires_grad)
            for name, buffer in list(module._buffers.items()):
                if buffer is not None:
                    module._buffers[name] = torch.empty_like(buffer, device=device)
        yield model


@contextlib.contextmanager
def autocast(device: str) -> Generator[None]:
    """``torch.autocast`` without its question whether there is such a device."""
    torch.set_autocast_dtype(device, torch.bfloat16)
    torch.set_autocast_enabled(device, True)
    try:
        yield
    finally:
        torch.set_autocast_enabled(device, False)
        torch.clear_autocast_cache()


def _loss(model: GR00TN15, config: FinetuneConfig, padded: bool) -> torch.Tensor:
    data, batch = get_data_config(config.data_config), config.batch_size
    views, actions = len(data.video), (batch, data.action_horizon, data.max_action_dim)
    tokens = TEXT_TOKENS + views * (7 + model.config.eagle.image_tokens)
    inputs = {
        "eagle_input_ids": torch.zeros(batch, tokens, dtype=torch.int64),
        "eagle_attention_mask": torch.ones(batch, tokens, dtype=torch.int64),
        "eagle_pixel_values": torch.zeros(batch * views, 3, 224, 224),
        "state": torch.zeros(batch, 1, data.max_state_dim),
        "action": torch.zeros(actions),
        "action_mask": torch.ones(actions, dtype=torch.bool),
        "embodiment_id": torch.zeros(batch, dtype=torch.int64),
        "eagle_unpadded": not padded,
        "eagle_image_tokens": batch * views * model.config.eagle.image_tokens,
        "one_embodiment": True,
    }
    return model(inputs, torch.zeros(actions), torch.zeros(batch))["loss"]


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    query, key, value = (each.to(torch.bfloat16) for each in (query, key, value))
    if attn_mask is None:
        kernel = torch.ops.aten._scaled_dot_product_flash_attention
        return kernel(query, key, value, dropout_p, is_causal, False, scale=scale)[0]
    mask = attn_mask.to(torch.bfloat16).expand(*query.shape[:3], key.shape[2])
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    return kernel(query, key, value, mask, torch.is_grad_enabled(), dropout_p, is_causal, scale=scale)[0]


@contextlib.contextmanager
def as_on_cuda() -> Generator[None]:
    """Norms and dropout of a CPU as they are on CUDA under autocast."""
    norm = functional.layer_norm

    def layer_norm(x: torch.Tensor, shape: list[int], weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
        if torch.is_autocast_enabled("cpu"):
            weight, bias = (None if each is None else each.float() for each in (weight, bias))
            x = x.float()
        return norm(x, shape, weight, bias, eps)

    def dropout(x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        return torch.native_dropout(x, p, True)[0] if training and p else x

    with mock.patch.multiple(functional, layer_norm=layer_norm, dropout=dropout):
        yield


class _Live(TorchDispatchMode):
    """Counts the storages that are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in tree_leaves(out):
            if isinstance(each, torch.Tensor):
                storage = each.untyped_storage()
                if storage._cdata not in self._sizes:
                    self._sizes[storage._cdata] = storage.nbytes()
                    self._now += storage.nbytes()
                    weakref.finalize(storage, self._free, storage._cdata)
        self.peak = max(self.peak, self._now)
        return out

    def _free(self, number: int) -> None:
        self._now -= self._sizes.pop(number, 0)
