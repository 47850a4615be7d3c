"""How long one action chunk takes at batch 1: the backbone once, then the denoising steps."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import torch

from bench.drill.report import Table
from bench.drill.steps import Bench, now
from bench.drill.variants import autocast, captured, on_device


def measure_latency(bench: Bench, table: Table) -> dict[str, float]:
    """A row for each part of a chunk; the medians in milliseconds by name."""
    inputs = on_device(bench.made.collate([bench.dataset[0]]), bench.device)
    with torch.inference_mode(), autocast(bench.device):
        chunk = bench.subject.parts(bench.made, inputs)
    found: dict[str, float] = {}

    def timed(name: str, make: Callable[[], Callable[[], object]]) -> None:
        def cells() -> list[object]:
            with torch.inference_mode(), autocast(bench.device):
                found[name] = latency(make(), bench.size.steps)
            return [found[name]]

        table.attempt([name], cells)

    timed("backbone", lambda: chunk.features)
    timed("one denoising step", lambda: chunk.denoise)
    timed(f"chunk of {chunk.steps} steps", lambda: chunk.whole)
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
