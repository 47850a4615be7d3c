"""What the engine shall reach on an H100 or H200, and whether a drill's figures do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Figures = Mapping[str, Any]
COLUMNS = ["goal", "wanted", "measured", ""]


class Goal(NamedTuple):
    """A figure of a drill and its bound."""

    what: str
    bound: float
    at_least: bool
    unit: str
    figure: Callable[[Figures], float | None]
    """Of ``measured.json``; None where the drill did not get to it."""


def _ratio(small_batch: bool, name: str) -> Callable[[Figures], float | None]:
    """Ours against upstream's way at the smallest or the largest batch."""

    def figure(measured: Figures) -> float | None:
        found = measured.get("fast", {}).get("against_upstreams_way", [])
        ordered = sorted(found, key=lambda each: each["batch_size"], reverse=not small_batch)
        return ordered[0][name] if ordered else None

    return figure


def _of_default(name: str, choose: Callable[[list[float]], float]) -> Callable[[Figures], float | None]:
    """Of the configurations with the default tune flags, in the order of their batch sizes."""

    def figure(measured: Figures) -> float | None:
        found = [each for each in measured.get("fast", {}).get("configurations", []) if each["tune"] == "default"]
        values = [each[name] for each in sorted(found, key=lambda each: each["batch_size"])]
        known = [value for value in values if value is not None]
        return choose(known) if known else None

    return figure


def _host_waits(measured: Figures) -> float | None:
    """Of a step, at the batch size that has most."""
    batches = (each for each in measured.get("where", {}).values() if isinstance(each, Mapping))
    return max((each["host_waits"] for each in batches if each.get("host_waits") is not None), default=None)


def _of_whole(name: str) -> Callable[[Figures], float | None]:
    return lambda measured: measured.get("whole", {}).get(name)


GOALS = [
    Goal("steps/s against upstream's way, smallest batch", 2.0, True, "×", _ratio(True, "speed")),
    Goal("steps/s against upstream's way, largest batch", 1.5, True, "×", _ratio(False, "speed")),
    Goal("peak memory against upstream's way, largest batch", 0.7, False, "×", _ratio(False, "memory")),
    Goal("MFU, default flags, largest batch", 35, True, " %", _of_default("mfu_percent", lambda each: each[-1])),
    Goal("time waiting for data, default flags, at most", 1, False, " %", _of_default("waiting_percent", max)),
    Goal("waits of the host for the GPU in a step, at most", 0, False, "", _host_waits),
    Goal("training stopped by a save, at most", 100, False, " ms", _of_whole("stopped_ms")),
]


def verdicts(measured: Figures) -> list[list[str]]:
    """A row for each goal: what is wanted, what was measured, and whether that meets it."""
    counts = measured.get("about", {}).get("counts", False)
    return [_row(goal, goal.figure(measured), counts) for goal in GOALS]


def _row(goal: Goal, found: float | None, counts: bool) -> list[str]:
    wanted = f"{'≥' if goal.at_least else '≤'} {goal.bound:g}{goal.unit}"
    if found is None:
        return [goal.what, wanted, "not measured", ""]
    met = found >= goal.bound if goal.at_least else found <= goal.bound
    verdict = ("met" if met else "NOT MET") if counts else "no verdict: a small model, or no GPU"
    return [goal.what, wanted, f"{found:.3g}{goal.unit}", verdict]
