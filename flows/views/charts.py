"""Charts as SVG for the HTML pages, drawn by matplotlib in the colours of the page, so that light and dark both work.

Titles, keys and captions are the page's: a chart holds numbers and the labels of its axes, and no text of a stranger.
matplotlib is imported when something is drawn.
"""

from __future__ import annotations

import io
import math
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from trainer.config.settings import pippa_home

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = Sequence[tuple[float, float]]

COLOURS = 8
"""``--c0`` to ``--c7`` of the page's style; with more lines they begin again."""
MOST_POINTS = 400
"""Of a line; more can't be told apart at the width of a page."""
MOST_DRAWN = 1e100
# Stand-ins that matplotlib takes for colours, and that become the page's variables in the SVG.
_VARIABLES = {"#0a0b01": "--ink", "#0a0b02": "--muted", "#0a0b03": "--grid"} | {
    f"#0a0c{number:02x}": f"--c{number}" for number in range(COLOURS)
}
_INK, _MUTED, _GRID = list(_VARIABLES)[:3]
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "pippa",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # the one it brings, to measure with; the page shows its own
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "grid.color": _GRID,
    "axes.grid": True,
    "axes.axisbelow": True,
    "lines.linewidth": 1.5,
    "path.simplify_threshold": 0.5,
}


@dataclass(frozen=True)
class Line:
    """One line of a chart. ``colour`` is the number of one of the page's colours; None is grey, as a baseline's."""

    points: Points
    colour: int | None = 0
    dashed: bool = False
    dots: bool = False
    """Whether each point is marked, as where there are few."""


def line_chart(
    lines: Sequence[Line],
    *,
    x: str,
    y: str,
    log: bool = False,
    marks: Sequence[float] = (),
    right: Sequence[Line] = (),
    right_label: str = "",
    width: float = 760,
    height: float = 260,
) -> Markup:
    """A chart of ``lines`` as an ``<svg>`` of ``width`` × ``height`` in the page's pixels.

    ``marks`` are thin verticals, such as the steps of checkpoints; ``right`` are lines on a second axis at the right.
    With ``log`` the left axis is logarithmic where all values are positive.
    """
    figure, axis = _figure(width, height)
    with _drawing():
        from matplotlib.ticker import MaxNLocator

        for mark in marks:
            axis.axvline(mark, color=_MUTED, linewidth=0.8, linestyle=":")
        axis.grid(visible=not marks, axis="x")
        _draw(axis, lines)
        axis.set_xlabel(x)
        axis.set_ylabel(y)
        axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True))  # there is no half a step
        if log and all(value > 0 for line in lines for _, value in line.points):
            _logarithmic(axis)
        if right:
            other = axis.twinx()
            _draw(other, right)
            other.set_ylabel(right_label)
            other.spines["right"].set_visible(True)
            other.grid(visible=False)
        return _svg(figure)


def small_chart(lines: Sequence[Line], dots: Points = (), *, least: float = 0.0) -> Markup:
    """A small chart without labels, one of many: ``dots`` are marked on it, and its height spans ``least`` or more."""
    figure, axis = _figure(260, 120)
    with _drawing():
        _draw(axis, lines)
        if dots:
            axis.plot(*zip(*_drawable(dots), strict=True), "o", color=_colour(1), markersize=2.5)
        low, high = axis.get_ylim()
        if high - low < least:
            axis.set_ylim((low + high - least) / 2, (low + high + least) / 2)
        axis.tick_params(labelsize=7.5)
        axis.locator_params(nbins=4)
        return _svg(figure)


def thinned(points: Points, most: int = MOST_POINTS) -> Points:
    """At most about ``most`` of ``points``, the last one among them: of each stretch its lowest and its highest."""
    if len(points) <= most:
        return points
    stretch = -(-2 * len(points) // most)
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        extremes = {min(part, key=lambda each: each[1]), max(part, key=lambda each: each[1])}
        kept += sorted(extremes)
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def _figure(width: float, height: float) -> tuple[Any, Axes]:
    # Read when matplotlib is imported: its font cache belongs with the others.
    os.environ.setdefault("MPLCONFIGDIR", str(pippa_home() / "cache" / "matplotlib"))
    with _drawing():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
        return figure, figure.add_subplot()


def _drawing() -> Any:
    from matplotlib import rc_context

    return rc_context(_STYLE)


def _colour(number: int | None) -> str:
    return _MUTED if number is None else f"#0a0c{number % COLOURS:02x}"


def _drawable(points: Points) -> Points:
    """``points`` with gaps where a training diverged: matplotlib fails on an axis of 1e308."""
    return [(x, y if abs(y) < MOST_DRAWN else math.nan) for x, y in points]


def _draw(axis: Axes, lines: Sequence[Line]) -> None:
    for line in lines:
        if not line.points:
            continue
        axis.plot(
            *zip(*_drawable(thinned(line.points)), strict=True),
            color=_colour(line.colour),
            linestyle="--" if line.dashed else "-",
            linewidth=1.1 if line.dashed else 1.5,
            marker="o" if line.dots else None,
            markersize=3.5,
        )


def _logarithmic(axis: Axes) -> None:
    """A logarithmic axis with plain numbers, also where it spans less than a decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_locator(NullLocator())


def _svg(figure: Any) -> Markup:
    file = io.StringIO()
    with warnings.catch_warnings(action="ignore"):  # such as a glyph that its own font lacks: the page has others
        unsaid = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=unsaid)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r' xmlns(:xlink)?="[^"]*"|<defs>\s*<style.*?</style>\s*</defs>', "", text, flags=re.DOTALL)
    # Ids of groups would be the same in every chart of a page; those that are used are hashes of what they name.
    text = re.sub(r'<g id="[a-z0-9_.]+">', "<g>", text)
    # A tenth of a pixel is enough.
    text = re.sub(r' (?:d|x|y|transform)="[^"]*"', lambda found: re.sub(r"(\.\d)\d+", r"\1", found[0]), text)
    text = re.sub(r"\s*\n\s*", " ", text)
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, f"var({variable})")
    return Markup(text)  # noqa: S704 - matplotlib's, and the labels in it are ours
