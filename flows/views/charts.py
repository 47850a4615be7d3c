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

LIGHT = {
    "ink": "#1d2125",
    "muted": "#626a73",
    "grid": "#e6e8ea",
    "c0": "#2b6cb0",
    "c1": "#d9662b",
    "c2": "#2f8f5b",
    "c3": "#8a4fbf",
    "c4": "#b8860b",
    "c5": "#c2407a",
    "c6": "#3a9aa8",
    "c7": "#7a6a58",
}
"""The colours of a chart by name, as the page's style has them (``--ink``)."""
DARK = {
    "ink": "#e4e7ea",
    "muted": "#9aa3ad",
    "grid": "#2a3036",
    "c0": "#6aa9e9",
    "c1": "#f29457",
    "c2": "#63c58d",
    "c3": "#bb8de8",
    "c4": "#e0b84a",
    "c5": "#ee82ad",
    "c6": "#67c7d4",
    "c7": "#b8a68f",
}
COLOURS = 8
"""Of lines, ``c0`` to ``c7``; with more lines they begin again."""
MAX_POINTS = 400
"""Of a line; more are indistinguishable at the width of a page."""
MAX_DRAWN = 1e100
MIN_FOR_LOG = 4.0
"""Times the smallest value; a logarithmic axis of less has hardly a number on it."""
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
    With ``log`` the left axis is logarithmic where all values are positive and some are several times others.
    """
    figure, axis = _figure(width, height)
    with _drawing():
        from matplotlib.ticker import MaxNLocator

        for mark in marks:
            axis.axvline(mark, color=_MUTED, linewidth=0.8, linestyle=(0, (2, 4)))
        axis.grid(visible=not marks, axis="x")
        _draw(axis, lines)
        axis.set_xlabel(x)
        axis.set_ylabel(y)
        values = [value for line in lines for _, value in line.points]
        if log and min(values, default=0) > 0 and max(values) > MIN_FOR_LOG * min(values):
            _logarithmic(axis)
        axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True))  # there is no half a step
        if right:
            other = axis.twinx()
            _draw(other, right)
            other.yaxis.set_major_formatter(lambda value, _: f"{value:.2g}")
            other.set_ylabel(right_label)
            other.spines["right"].set_visible(True)
            other.grid(visible=False)
        return _svg(figure)


def small_chart(lines: Sequence[Line], dots: Points = (), *, least: float = 0.0) -> Markup:
    """A small chart without labels, one of many: ``dots`` are marked on it, and its height spans ``least`` or more."""
    figure, axis = _figure(260, 120, (0.15, 0.18, 0.84, 0.78))
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


def thinned(points: Points, most: int = MAX_POINTS) -> Points:
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


def as_file(charts: Sequence[tuple[str, Markup]], *, columns: int = 1) -> bytes:
    """An SVG file of ``charts``, each below its title, in the light colours: a picture for where there is no page."""
    sizes = [_SIZE.search(chart) for _, chart in charts]
    width, height = (max(float(found[number]) for found in sizes if found) for number in (1, 2))
    rows = -(-len(charts) // columns)
    whole = (width * columns, (height + _TITLE) * rows)
    parts = [
        Markup(
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            'width="{0:g}" height="{1:g}" viewBox="0 0 {0:g} {1:g}"><rect width="100%" height="100%" fill="#ffffff"/>'
        ).format(*whole)
    ]
    for number, (title, chart) in enumerate(charts):
        x, y = width * (number % columns), (height + _TITLE) * (number // columns)
        known = "".join(letter for letter in title if letter.isprintable())
        parts.append(
            Markup('<text x="{:g}" y="{:g}" font-family="sans-serif" font-size="11" fill="{}">{}</text>').format(
                x + 8, y + _TITLE - 5, LIGHT["ink"], known
            )
        )
        place = Markup('<svg x="{:g}" y="{:g}" width="{:g}" height="{:g}"').format(x, y + _TITLE, width, height)
        parts.append(Markup(_SIZE.sub(place, chart, count=1)))  # noqa: S704 - a chart of ours
    text = Markup().join([*parts, Markup("</svg>")])
    for name, colour in LIGHT.items():
        text = text.replace(f"var(--{name})", colour)
    return text.encode()


_SIZE = re.compile(r'<svg width="([\d.]+)pt" height="([\d.]+)pt"')
_TITLE = 18
"""The height of a chart's title."""


def _figure(width: float, height: float, place: tuple[float, float, float, float] | None = None) -> tuple[Any, Axes]:
    """A figure of this size and its axes: at ``place``, or laid out when drawn, which takes twice as long."""
    # Read when matplotlib is imported: its font cache belongs with the others.
    os.environ.setdefault("MPLCONFIGDIR", str(pippa_home() / "cache" / "matplotlib"))
    with _drawing():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(width / 72, height / 72), layout=None if place else "constrained")
        return figure, figure.add_axes(place) if place else figure.add_subplot()


def _drawing() -> Any:
    from matplotlib import rc_context

    return rc_context(_STYLE)


def _colour(number: int | None) -> str:
    return _MUTED if number is None else f"#0a0c{number % COLOURS:02x}"


def _drawable(points: Points) -> Points:
    """``points`` with gaps where a training diverged: matplotlib fails on an axis of 1e308."""
    return [(x, y if abs(y) < MAX_DRAWN else math.nan) for x, y in points]


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
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5), numticks=8))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
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
