"""``pippa runs list``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.views.terminal import duration
from trainer.store.runs import Run

_COLOURS = {"done": "green", "failed": "red", "running": "cyan"}


def print_list(console: Console, found: Sequence[Run], status_of: Callable[[Run], str]) -> None:
    """Print runs, the oldest first, and below a failed one why it failed."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("run", "status", "step", "loss", "took"):
        right = heading in ("step", "loss", "took")
        table.add_column(heading, justify="right" if right else "left", no_wrap=heading != "run", overflow="fold")
    for run in found:
        state, status = run.state, status_of(run)
        loss = state.metrics.get("loss") if state else None
        name = escape(run.spec.run_id)
        if state and status == "failed":
            name += f"\n  [dim]{escape(state.message.partition(chr(10))[0])}[/]"
        table.add_row(
            name,
            f"[{_COLOURS.get(status, 'yellow')}]{status}[/]",
            f"{state.step}/{state.of}" if state else "",
            f"{loss:.4f}" if loss is not None else "",
            duration(seconds) if (seconds := _seconds(run)) is not None else "",
        )
    console.print(table)


def as_documents(found: Sequence[Run], status_of: Callable[[Run], str]) -> list[dict[str, Any]]:
    """The same for programs."""
    return [
        {
            "run": run.spec.run_id,
            "preset": run.spec.preset,
            "datasets": [str(ref) for ref in run.spec.datasets],
            "engine": run.spec.engine,
            "status": status_of(run),
            "step": run.state.step if run.state else 0,
            "of": run.spec.config.max_steps,
            "metrics": run.state.metrics if run.state else {},
            "created": run.spec.created.isoformat(),
            "seconds": _seconds(run),
            "exit_code": run.state.exit_code if run.state else None,
            "message": run.state.message if run.state else "",
        }
        for run in found
    ]


def _seconds(run: Run) -> float | None:
    state = run.state
    return ((state.ended or state.updated) - state.started).total_seconds() if state and state.started else None
