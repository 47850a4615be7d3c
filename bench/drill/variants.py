"""One training step on a batch that stays on the device, as it is and as CUDA graphs or ``torch.compile`` would run it.

What is timed is the model, clipping and AdamW: no loader, no Trainer. It tells what a way of launching kernels can give
before the engine takes it up.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map_only

from bench.drill.steps import TUNES, Bench, free, now
from trainer.data.collate import finish_images
from trainer.training.noise import draw_noise


class FixedStep:
    """A training step with the default tune flags, on the first ``batch`` samples of the dataset."""

    def __init__(self, bench: Bench, batch: int) -> None:
        self.model, self.device, self.subject = bench.model, bench.device, bench.subject
        self.model.set_trainable(**TUNES["default"])
        self.model.train()
        self.inputs = on_device(bench.made.collate([bench.dataset[each] for each in range(batch)]), self.device)
        self.noise, self.time = draw_noise(
            self.model.action_head, self.inputs["action"], seed=0, step=0, first=0, samples_per_step=batch
        )
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        # As a graph needs it: the learning rate in a tensor.
        on_gpu = self.device.type == "cuda"
        rate = torch.tensor(1e-5, device=self.device) if on_gpu else 1e-5
        betas = (self.subject.generation.adam_beta1, 0.999)
        self.optimizer = torch.optim.AdamW(self.trained, lr=rate, betas=betas, fused=True, capturable=on_gpu)

    def __call__(self) -> None:
        """Forward, backward, clipping, AdamW."""
        with autocast(self.device):
            loss = self.model(self.inputs, self.noise, self.time)["loss"]
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def free(self) -> None:
        """Give back the device's memory."""
        self.optimizer.state.clear()
        free(self.model)


def autocast(device: torch.device, *, cached: bool = True) -> torch.autocast:
    """As training computes: in bfloat16 on a GPU. A graph of a part must not keep cast weights (``cached``)."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda", cache_enabled=cached)


def on_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """A collated batch as the model takes it."""
    moved = {
        key: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for key, value in batch.items()
    }
    return finish_images(moved)


def milliseconds(function: Callable[[], object], repeats: int, warm_up: int = 3) -> float:
    """Of one call among many that follow each other."""
    for _ in range(warm_up):
        function()
    began = now()
    for _ in range(repeats):
        function()
    return (now() - began) / repeats * 1e3


@contextmanager
def backbone_graph(step: FixedStep) -> Generator[Callable[[], None]]:
    """The frozen backbone's forward pass is one launch."""
    backbone, given = step.model.backbone, []
    with torch.no_grad(), backbone.register_forward_pre_hook(lambda _, arguments: given.append(arguments)):
        step.model(step.inputs, step.noise, step.time)
    static = tree_map_only(torch.Tensor, torch.clone, given[0])

    def compute() -> torch.Tensor:
        with torch.no_grad(), autocast(step.device, cached=False):
            return backbone(*static)

    replay, features = captured(compute)

    def forward(*arguments: Any) -> torch.Tensor:
        for kept, new in zip(tree_leaves(static), tree_leaves(arguments), strict=True):
            if isinstance(kept, torch.Tensor):
                kept.copy_(new)
        replay()
        return features

    backbone.forward = forward  # pyrefly: ignore[bad-assignment]
    try:
        yield step
    finally:
        del backbone.forward


@contextmanager
def step_graph(step: FixedStep) -> Generator[Callable[[], None]]:
    """The whole step is one launch: what graphs can give at most."""
    replay, _ = captured(step)
    yield replay


@contextmanager
def compiled(step: FixedStep) -> Generator[Callable[[], None]]:
    """``torch.compile`` for each layer by itself: those of a kind share their code, and a whole model takes minutes."""
    backend = "inductor" if step.device.type == "cuda" else "aot_eager"
    layers = [module for module in step.model.modules() if type(module).__name__ in step.subject.layers]
    torch._dynamo.config.recompile_limit = 64
    for layer in layers:
        layer.compile(backend=backend, dynamic=False)
    with ExitStack() as stack:
        stack.callback(torch._dynamo.reset)
        for layer in layers:
            stack.callback(setattr, layer, "_compiled_call_impl", None)
        yield step


def captured(function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """``function`` as a CUDA graph: what replays it, and what it returned, which each replay fills again.

    Raises ``RuntimeError`` without a GPU, and for a function that waits for the device.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("CUDA graphs need a GPU")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        returned = function()
    return graph.replay, returned
