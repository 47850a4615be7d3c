"""How long one action chunk takes at batch 1: the backbone once, then the denoising steps."""

from __future__ import annotations

import copy
from collections.abc import Callable
from statistics import median

import torch

from bench.drill.report import Table
from bench.drill.steps import Bench, now
from bench.drill.variants import autocast, captured, on_device
from trainer.data.collate import Collator


class Chunk:
    """The parts of one prediction, in the dtypes of a served policy."""

    def __init__(self, bench: Bench) -> None:
        self.device, self.backbone = bench.device, bench.model.backbone.eval()
        # A copy in bfloat16, as served: the trained head stays float32.
        self.head = copy.deepcopy(bench.model.action_head).eval()
        if self.device.type == "cuda":
            self.head.to(torch.bfloat16)
        self.inputs = on_device(Collator(bench.processor)(bench.dataset.__getitems__([0])), self.device)
        horizon, width = self.head.config.action_horizon, self.head.config.action_dim
        self.noise = torch.randn(1, horizon, width, device=self.device, dtype=self.head.dtype)
        self.state = self.inputs["state"].to(self.head.dtype)
        self.ids = self.inputs["embodiment_id"]
        with torch.inference_mode(), autocast(self.device):
            self.seen = self.features()
            self.context = self.head.context(self.seen)
            self.encoded = self.head.state_encoder(self.state, self.ids)
            self.buckets = torch.zeros(1, dtype=torch.int64, device=self.device)

    def features(self) -> torch.Tensor:
        """What the backbone sees."""
        inputs = self.inputs
        return self.backbone(
            inputs["eagle_input_ids"], None, inputs["eagle_pixel_values"], inputs["eagle_image_tokens"]
        )

    def denoise(self) -> torch.Tensor:
        """One step of the flow."""
        return self.head.velocity(self.context, self.encoded, self.noise, self.buckets, self.ids)

    def whole(self) -> torch.Tensor:
        """A chunk of actions."""
        return self.head.get_action(self.features(), self.state, self.ids, self.noise, one_embodiment=True)


def measure_latency(bench: Bench, table: Table) -> dict[str, float]:
    """A row for each part of a chunk; the medians in milliseconds by name."""
    chunk = Chunk(bench)
    found: dict[str, float] = {}

    def timed(name: str, make: Callable[[], Callable[[], object]]) -> None:
        def cells() -> list[object]:
            with torch.inference_mode(), autocast(chunk.device):
                found[name] = latency(make(), bench.size.steps)
            return [found[name]]

        table.attempt([name], cells)

    timed("backbone", lambda: chunk.features)
    timed("one denoising step", lambda: chunk.denoise)
    timed(f"chunk of {chunk.head.num_inference_timesteps} steps", lambda: chunk.whole)
    timed("the chunk as one CUDA graph", lambda: captured(chunk.whole)[0])
    return found


def latency(function: Callable[[], object], repeats: int) -> float:
    """Median milliseconds of a call, waited for, as a robot waits."""
    taken = []
    for _ in range(3 + repeats):
        began = now()
        function()
        taken.append(now() - began)
    return median(taken[3:]) * 1e3
