"""The frame of the HTML pages: one self-contained file, light and dark, without a script and without a network.

``templates/page.html`` is the frame with its style; a page extends it, fills ``content``, and puts it together from
the macros of ``parts.html``: facts, tables, sentences, charts, commands. Everything that is put into a template is
escaped: names of datasets, tasks and joints are whatever a stranger wrote. What is trusted is ``Markup``: our own
charts (``flows.views.charts``).
"""

from __future__ import annotations

import base64
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from flows.views.charts import DARK, LIGHT
from flows.views.terminal import duration, size

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> str:
    """The page ``template`` of the folder ``templates`` with ``values``; it needs ``title`` and ``subtitle``."""
    return _environment().get_template(template).render(**values, light=LIGHT, dark=DARK)


def picture(content: bytes, kind: str) -> Markup:
    """The address of a picture that is part of the page; ``kind`` is ``png``, ``webp`` or ``svg+xml``."""
    return Markup("data:image/{};base64,{}").format(kind, base64.b64encode(content).decode())


def figure_text(value: float | None) -> str:
    """A number as people read it; empty for none."""
    return "" if value is None else f"{value:.4g}"


def share_text(value: float | None) -> str:
    """A share of a baseline: ``84%``, or ``12 times``; empty for none."""
    if value is None:
        return ""
    return f"{value:.0%}" if value < 10 else f"{value:.0f} times"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(figure=figure_text, share=share_text, duration=duration, size=size)
    return environment
