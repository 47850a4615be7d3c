"""``pippa checkpoints list``: the checkpoints of each run below its name, in 80 columns."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.views.terminal import size
from trainer.store.registry import BEST_METRIC, CheckpointEntry

LOSS = "loss"
_COLUMNS = ("step", "loss", "open-loop MSE", "size", "created", "aliases")


def print_list(console: Console, entries: Sequence[CheckpointEntry], aliases: Mapping[str, Sequence[str]]) -> None:
    """Print ``entries``, the oldest first, with the ``aliases`` of each by its name."""
    for run_id, group in itertools.groupby(entries, key=lambda entry: entry.run_id):
        of_run = list(group)
        spec = of_run[0].spec
        datasets = ", ".join(ref.name for ref in spec.datasets)
        console.print(f"[bold]{escape(run_id)}[/]", soft_wrap=True)
        console.print(f"  [dim]{escape(spec.preset)} on {escape(datasets)}[/]", soft_wrap=True)
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for heading in ("", *_COLUMNS):
            right = heading in ("step", "loss", "open-loop MSE", "size")
            table.add_column(heading, justify="right" if right else "left", no_wrap=heading != "aliases")
        for entry in of_run:
            table.add_row(
                "",
                str(entry.step),
                _figure(entry.metrics.get(LOSS)),
                _figure(entry.metrics.get(BEST_METRIC)),
                size(entry.bytes_total),
                f"{entry.created:%m-%d %R}",
                f"[cyan]{escape(' '.join(aliases.get(entry.name, [])))}[/]",
            )
        console.print(table)


def as_documents(entries: Sequence[CheckpointEntry], aliases: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """The same for programs."""
    return [
        {
            "name": entry.name,
            "run": entry.run_id,
            "step": entry.step,
            "preset": entry.spec.preset,
            "datasets": [str(ref) for ref in entry.spec.datasets],
            "digest": entry.snapshot.digest,
            "bytes": entry.bytes_total,
            "created": entry.created.isoformat(),
            "metrics": entry.metrics,
            "aliases": list(aliases.get(entry.name, [])),
        }
        for entry in entries
    ]


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
