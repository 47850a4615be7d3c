"""Closed-loop evaluations in a terminal: one line per checkpoint, and how far its trials got."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from trainer.store.closed_loop import ClosedLoop


def closed_loop_table(named: Sequence[tuple[str, ClosedLoop]]) -> Table:
    """The success rate with its confidence interval, and the trials that reached, grasped and lifted the object."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for heading in ("checkpoint", "success", "95% interval", "reached", "grasped", "lifted", "trials"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "checkpoint")
    for name, found in named:
        low, high = found.interval
        table.add_row(
            escape(name),
            f"{found.success_rate:.0%}",
            f"{low:.0%} to {high:.0%}",
            *(f"{count / found.trials:.0%}" for count in (found.reached, found.grasped, found.lifted)),
            str(found.trials),
        )
    return table
