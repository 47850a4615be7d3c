"""The page of a comparison: runs beside each other in one table, and their curves in one chart each."""

from __future__ import annotations

from flows.views.charts import COLOURS, Line, line_chart
from flows.views.comparison import (
    HEADINGS,
    NUMERIC,
    Comparison,
    difference_rows,
    has_learned,
    letters_of,
    lowest_error,
    result_rows,
)
from flows.views.page import render


def build_comparison_page(found: Comparison) -> str:
    """One self-contained HTML file."""
    letters = letters_of(found)
    run_ids = [each.spec.run_id for each in found.compared]
    losses = [_line(list(each.losses), index) for index, each in enumerate(found.compared)]
    errors = [
        _line([(step, each.mse) for step, each in sorted(one.report.evaluations.items())], index, dots=True)
        for index, one in enumerate(found.compared)
    ]
    datasets = dict.fromkeys(str(ref) for each in found.compared for ref in each.spec.datasets)
    return render(
        "comparison.html",
        title=f"{len(run_ids)} runs compared",
        subtitle=f"on {', '.join(datasets)}",
        level="" if found.lowest is None else "learned" if has_learned(found) else "not",
        verdict=lowest_error(found) or "The best run can't be decided",
        errors_on=found.errors_on,
        headings=("", "run", *HEADINGS[1:]),
        rows=[[row[0], run_id, *row[1:]] for row, run_id in zip(result_rows(found, letters), run_ids, strict=True)],
        numeric=[number + 1 for number in NUMERIC],
        best=[] if found.lowest is None else [found.lowest],
        differences={
            subject: difference_rows(values, letters) for subject, values in found.differences.items() if values
        },
        loss=_chart(losses, "flow-matching loss"),
        errors=_chart(errors, "open-loop MSE"),
        key={letter: index % COLOURS for index, letter in enumerate(letters)},
        run_ids=run_ids,
    )


def _line(points: list[tuple[float, float]], index: int, *, dots: bool = False) -> Line:
    # With more runs than colours they begin again, dashed.
    return Line(points, index % COLOURS, dashed=index >= COLOURS, dots=dots or len(points) < 2)


def _chart(lines: list[Line], y: str) -> object:
    drawn = [line for line in lines if line.points]
    return line_chart(drawn, x="step", y=y, log=True) if drawn else None
