"""Evaluations in a terminal: one line per checkpoint, and what the figures of one say."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from trainer.store.evaluation import Evaluation

MARKS = {"learned": "[green]✓[/]", "partly": "[yellow]![/]", "not": "[red]✗[/]"}
"""A cross is a cross: a training that ended well and learned nothing has not succeeded."""


def evaluations_table(named: Sequence[tuple[str, Evaluation]]) -> Table:
    """One line per checkpoint: its error, and as shares of both baselines'."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for heading in ("checkpoint", "open-loop MSE", "of holding still", "of mean action", "loss", "on"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "checkpoint")
    for name, found in named:
        table.add_row(
            escape(name),
            f"{found.mse:.4g}",
            _share(found.over_hold_still),
            _share(found.over_variance),
            "" if found.flow_matching_loss is None else f"{found.flow_matching_loss:.4g}",
            found.on,
        )
    return table


def joints_table(found: Evaluation, most: int = 12) -> Table:
    """The joints that move, the worst against holding still first."""
    moving = sorted(
        (each for each in found.joints if each.moves), key=lambda each: each.mse / each.hold_still_mse, reverse=True
    )
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for heading in ("joint", "RMS error", "of holding still"):
        table.add_column(heading)
    for each in moving[:most]:
        unit = f" {each.unit}" if each.unit else ""
        table.add_row(escape(each.name), f"{each.mse**0.5:.4g}{escape(unit)}", _share(each.mse / each.hold_still_mse))
    if len(moving) > most:
        table.add_row(f"[dim]… and {len(moving) - most} more[/]")
    return table


def print_sentences(console: Console, sentences: Sequence[str], mark: str = "-") -> None:
    """One line each."""
    for each in sentences:
        console.print(f"  [dim]{mark}[/] {escape(each)}", soft_wrap=True)


def _share(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0%}" if value < 10 else f"{value:.0f} times"
