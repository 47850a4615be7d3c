"""``pippa runs compare``: what differs between runs in configuration, data and code, and how each went."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from string import ascii_uppercase
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.views.page import share_text
from flows.views.report import MSE, Report, build_report, read_events
from flows.views.run_facts import curve_of, text_of
from flows.views.terminal import duration, size
from trainer.config.flags import flag
from trainer.config.generations import ALL_FIELDS
from trainer.config.run_spec import RunSpec
from trainer.evaluation.verdict import best_step
from trainer.events import ProgressEvent
from trainer.store.evaluation import Evaluation, mean
from trainer.store.object_store import ObjectStore

SAME = "Nothing differs: the same configuration, data and code."

_DATA: dict[str, Callable[[RunSpec], object]] = {
    "dataset": lambda spec: [str(ref) for ref in spec.datasets],
    "left out": lambda spec: spec.config.exclude_episodes or "no episode",
    "base model": lambda spec: str(spec.base_model),
}
_CODE: dict[str, Callable[[RunSpec], object]] = {
    "engine": lambda spec: spec.engine,
    "commit": lambda spec: (spec.git_sha or "unknown")[:12],
    "image": lambda spec: spec.image or "none",
}


@dataclass(frozen=True)
class Compared:
    """One run of a comparison."""

    report: Report
    losses: tuple[tuple[float, float], ...]
    """Step and loss, as logged."""
    samples_per_second: float | None
    """The median over the training."""
    gpu_memory: int
    """The most bytes of a GPU that it used; 0 where none was used or nothing is known."""
    memory: int
    """The most bytes of memory that the engine's process used; 0 where nothing is known."""

    @property
    def spec(self) -> RunSpec:
        """What the run is."""
        return self.report.spec

    @property
    def best(self) -> tuple[int, Evaluation] | None:
        """The step and evaluation of its best checkpoint; None where none was evaluated."""
        found = self.report.evaluations
        return (step := best_step(found), found[step]) if found else None


@dataclass(frozen=True)
class Comparison:
    """Runs beside each other."""

    compared: tuple[Compared, ...]
    differences: dict[str, dict[str, list[str]]]
    """``configuration``, ``data`` and ``code``: by name, the value of each run; what all share is left out."""
    errors: list[float | None]
    """Open-loop MSE of each run's best checkpoint: on the episodes that all share where there are any."""
    errors_on: str
    """What the errors rest on, or why they can't be compared."""
    lowest: int | None
    """The index of the run with the lowest error, where errors can be compared."""


def compare(store: ObjectStore, run_ids: Sequence[str]) -> Comparison:
    """Read ``run_ids``. Raises ``UsageError`` for one that the store does not have."""
    compared = tuple(_read(store, run_id) for run_id in run_ids)
    specs = [each.spec for each in compared]
    configuration: dict[str, Callable[[RunSpec], object]] = {"preset": lambda spec: spec.preset}
    for name in ALL_FIELDS:
        if name not in ("dataset_path", "base_model_path", "exclude_episodes"):  # among the data
            configuration[flag(name)] = lambda spec, name=name: getattr(spec.config, name, None)
    errors, on, comparable = _errors(compared)
    known = [index for index, error in enumerate(errors) if error is not None]
    return Comparison(
        compared=compared,
        differences={
            "configuration": _differing(specs, configuration),
            "data": _differing(specs, _DATA),
            "code": _differing(specs, _CODE),
        },
        errors=errors,
        errors_on=on,
        lowest=min(known, key=lambda index: errors[index] or 0.0) if comparable else None,
    )


def print_comparison(console: Console, found: Comparison) -> None:
    """The runs, what differs, and how each went; 80 columns are enough for any number of runs."""
    letters = letters_of(found)
    width = max(map(len, letters))
    for letter, each in zip(letters, found.compared, strict=True):
        console.print(f"[bold]{letter:<{width}}[/]  {escape(each.spec.run_id)}", soft_wrap=True)
    if not any(found.differences.values()):
        console.print(f"\n{SAME}")
    for subject, values in found.differences.items():
        if values:
            console.print(f"\n[bold]{subject}[/]")
            table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
            table.add_column(no_wrap=True)
            table.add_column(overflow="fold")
            table.add_column(overflow="fold", style="bold")
            for row in difference_rows(values, letters):
                table.add_row(*map(escape, row))
            console.print(table)
    console.print("\n[bold]results[/]")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if index in NUMERIC else "left", no_wrap=True)
    for index, row in enumerate(result_rows(found, letters)):
        table.add_row(*map(escape, row), style="green" if index == found.lowest else None)
    console.print(table)
    console.print(f"[dim]{escape(found.errors_on)}[/]")
    if sentence := lowest_error(found):
        mark = "[green]✓[/]" if has_learned(found) else "[red]✗[/]"
        console.print(f"\n{mark} {escape(sentence)}", soft_wrap=True)


def letters_of(found: Comparison) -> list[str]:
    """What each run is called in tables and charts."""
    return [_letter(index) for index in range(len(found.compared))]


def has_learned(found: Comparison) -> bool:
    """Whether the run with the lowest error is better than holding still."""
    best = None if found.lowest is None else found.compared[found.lowest].best
    still = best[1].over_hold_still if best else None
    return still is not None and still < 1


def lowest_error(found: Comparison) -> str:
    """One sentence on the best run; empty where errors can't be compared."""
    if found.lowest is None:
        return ""
    each = found.compared[found.lowest]
    step = each.best[0] if each.best else each.report.step
    learned = "" if has_learned(found) else ", though none is better than holding still"
    return f"Lowest error: {_letter(found.lowest)}{learned}: checkpoint {each.spec.run_id}/{step}"


def as_document(found: Comparison) -> dict[str, Any]:
    """The same for programs, with the curves of loss and error."""
    return {
        "runs": [_run_document(each, error) for each, error in zip(found.compared, found.errors, strict=True)],
        "differences": found.differences,
        "errors_on": found.errors_on,
        "lowest_error": None if found.lowest is None else found.compared[found.lowest].spec.run_id,
    }


def _read(store: ObjectStore, run_id: str) -> Compared:
    report = build_report(store, run_id)
    events = read_events(store, run_id)
    progress = [event for event in events if isinstance(event, ProgressEvent)]
    speeds = [event.samples_per_second for event in progress if event.samples_per_second]
    return Compared(
        report,
        tuple(curve_of(events).loss),
        median(speeds) if speeds else None,
        max((event.gpu_memory_bytes or 0 for event in progress), default=0),
        max((event.memory_bytes or 0 for event in progress), default=0),
    )


def _differing(specs: Sequence[RunSpec], subjects: dict[str, Callable[[RunSpec], object]]) -> dict[str, list[str]]:
    """The values that are not the same for all, as texts."""
    found = {}
    for name, value in subjects.items():
        values = [value(spec) for spec in specs]
        if any(each != values[0] for each in values):
            found[name] = [text_of(each) for each in values]
    return found


def _errors(compared: Sequence[Compared]) -> tuple[list[float | None], str, bool]:
    """Each run's error, what they rest on, and whether they can be compared."""
    best = [each.best[1] if each.best else None for each in compared]
    own = [found.mse if found else each.report.metrics.get(MSE) for found, each in zip(best, compared, strict=True)]
    evaluated = [found for found in best if found is not None]
    if len(evaluated) < 2:
        return own, "Fewer than two of the runs have been evaluated on their own dataset.", False
    if len({(each.data_config, each.action_horizon) for each in evaluated}) > 1:
        return own, "The errors can't be compared: the data configs or action horizons differ.", False
    # Never an episode that some of them were trained on and others were not.
    shared = set.intersection(*({(e.hash, e.frames, e.trained_on) for e in each.counting} for each in evaluated))
    if not shared:
        return own, "The errors can't be compared: no episode is in the evaluation of all of them.", False
    on_shared = [
        mean(e.mse for e in found.counting if (e.hash, e.frames, e.trained_on) in shared) if found else None
        for found in best
    ]
    kind = "training" if all(trained for *_, trained in shared) else "held-out"
    count = f"{len(shared)} {kind} episode{'' if len(shared) == 1 else 's'}"
    return on_shared, f"Error: open-loop MSE of the best checkpoint, on the {count} that all have in common.", True


def _letter(index: int) -> str:
    """A, B, … Z, AA, AB …"""
    before, last = divmod(index, len(ascii_uppercase))
    return (_letter(before - 1) if before else "") + ascii_uppercase[last]


def difference_rows(values: dict[str, list[str]], letters: Sequence[str]) -> list[list[str]]:
    """A row for each value, with the runs that have it."""
    rows = []
    for name, each in values.items():
        for index, value in enumerate(dict.fromkeys(each)):
            having = [letter for letter, own in zip(letters, each, strict=True) if own == value]
            rows.append(["" if index else name, value, ", ".join(having)])
    return rows


HEADINGS = ("", "status", "step", "loss", "error", "of still", "samples/s", "took", "memory")
NUMERIC = range(2, len(HEADINGS))
"""The columns of ``HEADINGS`` that are numbers."""


def result_rows(found: Comparison, letters: Sequence[str]) -> list[list[str]]:
    """How each run went, by ``HEADINGS``."""
    rows = []
    for letter, each, error in zip(letters, found.compared, found.errors, strict=True):
        report = each.report
        still = each.best[1].over_hold_still if each.best else None
        used = each.gpu_memory or each.memory
        rows.append(
            [
                letter,
                report.status,
                str(report.step),
                _number(report.last_loss),
                _number(error),
                share_text(still),
                _number(each.samples_per_second, 3),
                "" if report.seconds is None else duration(report.seconds),
                size(used) if used else "",
            ]
        )
    return rows


def _number(value: float | None, digits: int = 4) -> str:
    return "" if value is None else f"{value:.{digits}g}"


def _run_document(each: Compared, error: float | None) -> dict[str, Any]:
    report = each.report
    return {
        "run": report.run_id,
        "preset": report.spec.preset,
        "status": report.status,
        "message": report.message,
        "verdict": report.verdict,
        "step": report.step,
        "loss": report.last_loss,
        "loss_curve": each.losses,
        "error": error,
        "best_step": each.best[0] if each.best else None,
        "evaluations": {step: found.metrics() | {"on": found.on} for step, found in report.evaluations.items()},
        "samples_per_second": each.samples_per_second,
        "seconds": report.seconds,
        "gpu_memory_bytes": each.gpu_memory or None,
        "memory_bytes": each.memory or None,
        "checkpoints": [line.name for line in report.checkpoints],
    }
