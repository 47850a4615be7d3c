"""How fast the engine trains and acts, against upstream's way and against what the card can do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from bench.drill import variants
from bench.drill.images import FORMS, compare_forms
from bench.drill.latency import measure_latency
from bench.drill.report import Report, Table
from bench.drill.steps import TUNES, Bench, bench, flops, free, measure
from bench.flops import peak_tflops
from trainer.generation import N15

Way = Callable[[variants.FixedStep], AbstractContextManager[Callable[[], None]]]
GRAPHS: dict[str, Way] = {
    "frozen backbone as a CUDA graph": variants.backbone_graph,
    "whole step as a CUDA graph": variants.step_graph,
}
COMPILED: dict[str, Way] = {"torch.compile, layer by layer": variants.compiled}
LAUNCHED = ["batch", "way", "ms/step", "samples/s", "×"]


def run(report: Report, size: str, device: str, generation: str) -> None:
    """All of it, in the order of its value; ``device`` is the card's name."""
    with bench(size, generation) as made:
        batches = made.size.batches
        few = (batches[0], batches[-1])
        parameters = list(made.model.parameters())
        total = sum(each.numel() for each in parameters)
        report.fact("parameters", total)
        report.fact("model_bytes", sum(each.numel() * each.element_size() for each in parameters))
        peak = peak_tflops(device)
        bound = f", {peak:.0f} TFLOP/s at most" if peak else ""
        report.note(f"{total / 1e9:.3g} B parameters on {device}{bound}; {made.size.steps} steps each.")
        configurations = Configurations(report, made, peak)
        for batch in batches:
            configurations.measure("default", batch)
        against = report.table(
            "Against upstream's way", ["batch", "theirs, steps/s", "ours ×", "theirs, peak GB", "ours ×"]
        )
        for batch in few:
            against.attempt([batch], lambda batch=batch: configurations.compare(batch))
        launched = report.table("The same batch again and again, default flags", LAUNCHED)
        for batch in few:
            report.attempt(lambda batch=batch: launch(made, launched, batch, GRAPHS))
        if made.subject.generation == N15:
            images = report.table("A batch's images, two cameras of 640x480, from pinned memory", FORMS)
            for batch in few:
                images.attempt([batch], lambda batch=batch: compare_forms(report, made.device, batch, made.size.steps))
        chunk = report.table("One action chunk at batch 1", ["part", "ms"])
        report.attempt(lambda: report.fact("latency_ms", measure_latency(made, chunk)))
        free(made.model)
        for batch in batches[:2]:
            configurations.measure("everything", batch)
        # Last: how long compiling takes is not known.
        compiled = report.table("Compiled", LAUNCHED)
        for batch in few:
            report.attempt(lambda batch=batch: launch(made, compiled, batch, COMPILED))


class Configurations:
    """The engine's steps with some tune flags and batch size: a table, and figures that a forecast can read."""

    def __init__(self, report: Report, bench: Bench, peak: float | None) -> None:
        self._report, self._bench, self._peak = report, bench, peak
        self._table = report.table(
            "Training steps",
            ["tuned", "batch", "steps/s", "samples/s", "waits for data", "peak memory, GB", "TFLOP/step", "MFU"],
        )
        self.found: list[dict[str, Any]] = []
        self._against: list[dict[str, Any]] = []

    def measure(self, tune: str, batch: int) -> None:
        """One row."""
        self._table.attempt([tune, batch], lambda: self._cells(tune, batch))

    def _cells(self, tune: str, batch: int) -> list[object]:
        took = measure(self._bench, tune, batch)
        work = flops(self._bench, tune, batch, took)
        utilisation = work / took.seconds / (self._peak * 1e12) if self._peak else None
        waiting = 100 * took.loading / took.seconds
        self.found.append(
            {
                "tune": tune,
                **TUNES[tune],
                "batch_size": batch,
                "peak_memory_bytes": took.memory,
                "seconds_per_step": took.seconds,
                "samples_per_second": batch / took.seconds,
                "waiting_percent": waiting,
                "mfu_percent": None if utilisation is None else 100 * utilisation,
                "tokens": took.tokens,
                "images": took.images,
            }
        )
        self._report.fact("configurations", self.found)
        return [
            *(1 / took.seconds, batch / took.seconds, f"{waiting:.2f} %", took.memory / 1e9, work / 1e12),
            "–" if utilisation is None else f"{utilisation:.1%}",
        ]

    def compare(self, batch: int) -> list[object]:
        """Upstream's way beside what was measured of ours."""
        theirs = measure(self._bench, "default", batch, upstreams_way=True)
        ours = next(each for each in self.found if each["tune"] == "default" and each["batch_size"] == batch)
        speed, memory = theirs.seconds / ours["seconds_per_step"], ours["peak_memory_bytes"] / theirs.memory
        self._against.append(
            {
                "batch_size": batch,
                "seconds_per_step": theirs.seconds,
                "peak_memory_bytes": theirs.memory,
                "speed": speed,
                "memory": memory,
            }
        )
        self._report.fact("against_upstreams_way", self._against)
        return [1 / theirs.seconds, f"{speed:.2f}", theirs.memory / 1e9, f"{memory:.2f}"]


def launch(bench: Bench, table: Table, batch: int, ways: Mapping[str, Way]) -> None:
    """A row for the step as it is, and for each of ``ways`` to launch its kernels."""
    step, steps = variants.FixedStep(bench, batch), bench.size.steps
    try:
        plain = variants.milliseconds(step, steps)
        table.row(batch, "kernel by kernel", plain, batch / plain * 1e3, "")
        for name, way in ways.items():

            def cells(way: Way = way) -> list[object]:
                with way(step) as function:
                    taken = variants.milliseconds(function, steps)
                return [taken, batch / taken * 1e3, f"{plain / taken:.2f}"]

            table.attempt([batch, name], cells)
    finally:
        step.free()
