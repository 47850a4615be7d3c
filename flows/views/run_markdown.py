"""The report of a run as Markdown that carries its pictures: for Prefect, whose readers may reach neither the store nor
the machine that trained.

Prefect's pages show a picture that is part of the text (a ``data:`` address), and drop links that are.
"""

from __future__ import annotations

import re

from flows.views.charts import as_file
from flows.views.page import picture
from flows.views.report import Report, read_events, to_markdown
from flows.views.run_charts import (
    EpisodeView,
    Room,
    episodes,
    episodes_in,
    error_chart,
    error_key,
    loss_chart,
    step_to_show,
)
from flows.views.run_facts import curve_of
from trainer.events import EvaluationEvent
from trainer.store import registry
from trainer.store.object_store import ObjectStore

ROOM = Room(episodes=1, charts=12, picture_bytes=200_000)
"""A page that lists a run's artifacts loads all of them."""
_COLOURS = ("blue", "orange", "green, dashed", "purple, dashed")
_MARK = "<!-- pictures -->"


def illustrated(store: ObjectStore, report: Report) -> str:
    """The report with the charts of loss and error, and the open loop of one episode. Raises ``StoreError``."""
    return to_markdown(report, [_MARK, *_pictures(store, report), _MARK])


def evaluated(store: ObjectStore, event: EvaluationEvent) -> str:
    """What an evaluation measured, and the open loop of its first episode. Raises ``StoreError``."""
    run_id, _, step = event.checkpoint.partition("/")
    # What was measured otherwise than by the run itself has names, and a folder, that say so.
    label = next((mark + rest for _, mark, rest in (name.partition("@") for name in event.metrics)), "")
    lines = [f"# {event.checkpoint}", "", f"On {event.on}.", "", "| metric | value |", "|---|---|"]
    lines += [f"| {name} | {value:.6g} |" for name, value in event.metrics.items()]
    for view in episodes_in(store, run_id, f"report/checkpoint-{step}{label}", ROOM) if step else ():
        lines += ["", f"{view.title}.", *open_loop(view)]
    return "\n".join([*lines, "", f"All of it: `pippa report {run_id} --open`"])


def without_pictures(markdown: str) -> str:
    """``illustrated`` for a terminal."""
    return re.sub(f"{_MARK}.*{_MARK}\n*", "", markdown, flags=re.DOTALL)


def _pictures(store: ObjectStore, report: Report) -> list[str]:
    steps = [entry.step for entry in registry.list_checkpoints(store, report.run_id)]
    curve, evaluations = curve_of(read_events(store, report.run_id)), dict(sorted(report.evaluations.items()))
    lines = []
    if chart := loss_chart(curve, steps):
        lines += ["", "## Training loss", "", _shown("Training loss", as_file([("", chart)]))]
        lines += ["", "Blue: flow-matching loss; orange, dashed: learning rate. Dotted lines are checkpoints."]
    if chart := error_chart(evaluations):
        key = "; ".join(f"{_COLOURS[number]}: {name}" for name, number in error_key(evaluations).items())
        lines += ["", "## Open-loop error over the checkpoints", "", _shown("Error", as_file([("", chart)]))]
        lines += ["", f"{key.capitalize()}."]
    shown = step_to_show(report, steps)
    for view in episodes(store, report.run_id, shown, steps, ROOM):
        lines += ["", f"## Open loop of step {shown}", "", f"{view.title}.", *open_loop(view)]
    return [*lines, ""]


def open_loop(view: EpisodeView) -> list[str]:
    """The lines of Markdown that show an episode."""
    lines = []
    if view.joints:
        charts = [(joint.title, joint.chart) for joint in view.joints]
        lines += ["", _shown("Joints", as_file(charts, columns=3))]
        lines += ["", "Grey: demonstrated; orange: predicted; dots: the frames at which the policy was asked."]
    for number, (_, strip) in enumerate(view.strips, start=1):
        lines += ["", f"![Camera {number} at questions from the episode's beginning to its end]({strip})"]
    if view.plot:
        lines += ["", f"![Demonstrated and predicted joints]({view.plot})"]
    return lines


def _shown(name: str, svg: bytes) -> str:
    return f"![{name}]({picture(svg, 'svg+xml')})"
