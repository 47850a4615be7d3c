"""Where a training step's time goes: the kernels of ten steps, and how much of the time the device has one to run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback

from bench.drill.report import Report, Table
from bench.drill.steps import Bench, Clock, bench, free, make_trainer, now
from bench.drill.waits import Waits

LARGEST = 5
WATCHED = 2
BUSY = 0.9
"""A device that has work for less of the time waits for the host."""


class Profiler(TrainerCallback):
    """Profiles the steps from ``first`` to ``last``; then, for ``WATCHED`` more, notes what waits for the GPU."""

    def __init__(self, first: int, last: int, activity: ProfilerActivity) -> None:
        self.first, self.last = first, last
        # Of the device alone where there is one: watching the host as well would slow it.
        self.profile = profile(activities=[activity])
        self.waits = Waits()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002 - called by name
        """Begin and end between two steps."""
        if state.global_step == self.first:
            now()
            self.profile.start()
        elif state.global_step == self.last:
            now()
            self.profile.stop()
            self.waits.__enter__()
        elif state.global_step == self.last + WATCHED:
            self.waits.__exit__(None, None, None)


def run(report: Report, size: str, _device: str, generation: str) -> None:
    """A profile at the smallest and the largest batch."""
    with bench(size, generation) as made:
        for batch in (made.size.batches[0], made.size.batches[-1]):
            table = report.table(f"A step at batch {batch}, default flags", ["what", "of a step", "share"])
            report.attempt(lambda batch=batch, table=table: look(report, table, made, batch))
            free(made.model)


def look(report: Report, table: Table, bench: Bench, batch: int) -> None:
    """The rows of one batch size."""
    steps, on_gpu = min(bench.size.steps, 10), bench.device.type == "cuda"
    timed = bench.size.warm_up + steps
    profiled = timed + steps
    clock = Clock(bench.size.warm_up, timed)
    profiler = Profiler(timed, profiled, ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU)
    trainer = make_trainer(bench, "default", batch, profiled + WATCHED, [clock, profiler])
    clock.trainer = trainer
    trainer.train()
    events = [each for each in profiler.profile.events() or () if not on_gpu or "CUDA" in str(each.device_type)]
    lasting = {id(each): each.time_range.elapsed_us() if on_gpu else each.self_cpu_time_total for each in events}
    spans = [(each.time_range.start, each.time_range.end) for each in events]
    busy = (covered(spans) if on_gpu else sum(lasting.values())) / steps
    taken = clock.seconds * 1e6
    table.row("time, not profiled", f"{taken / 1e3:.2f} ms", "")
    table.row("device busy" if on_gpu else "in operations", f"{busy / 1e3:.2f} ms", f"{busy / taken:.0%}")
    table.row("kernels" if on_gpu else "operations", f"{len(events) / steps:,.0f}", "")
    costs: Counter[str] = Counter()
    for each in events:
        costs[short(each.name)] += lasting[id(each)]
    for name, cost in costs.most_common(LARGEST):
        table.row(f"`{name}`", f"{cost / steps / 1e3:.2f} ms", f"{cost / steps / taken:.0%}")
    waits = profiler.waits.places.total() / WATCHED if on_gpu else None
    table.row("the host waits for the device", "not measured" if waits is None else f"{waits:g} times", "")
    for place, count in profiler.waits.places.most_common(LARGEST):
        table.row(f"the host waits at {place}", f"{count / WATCHED:g} times", "")
    bound = on_gpu and busy < BUSY * taken
    if on_gpu:
        report.note(f"Batch {batch} is {'bound by the host' if bound else 'bound by the device'}.")
    report.fact(
        f"batch_{batch}",
        {
            "ms": taken / 1e3,
            "busy_ms": busy / 1e3,
            "kernels": len(events) / steps,
            "host_bound": bound,
            "host_waits": waits,
        },
    )


def covered(intervals: Sequence[tuple[float, float]]) -> float:
    """How long at least one of ``intervals`` (start, end) lasts."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return total


def short(kernel: str) -> str:
    """A kernel's name without what templates add to it."""
    return kernel.replace("void ", "").replace("at::native::", "").replace("|", "/")[:70]
