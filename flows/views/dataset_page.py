"""The page of a dataset: one self-contained HTML file with its cameras, joints, and what of it deserves a look."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from flows.views.charts import Line, line_chart, small_chart, thinned
from flows.views.dataset import amount, by_rule, commands, joint_rows, plain, verdict
from flows.views.page import figure_text, picture, render
from flows.views.terminal import duration, task_text
from trainer.data.profile.model import Finding, Joint, Profile, Series, Still
from trainer.data.profile.rules import RULES

MAX_CHARTS = 16
"""Of findings; each is some 15 kB."""
MAX_COURSES = 24
MAX_SHOWN = 200
"""Findings of one rule."""
MAX_TASKS = 100
CHART_POINTS = 240
MIN_RANGE = 1e-3
_WIDTH, _HEIGHT = 160, 14
_LINE = Markup('<line x1="{}" x2="{}" y1="{}" y2="{}" stroke="var({})" stroke-width="{}"/>')


@dataclass(frozen=True)
class Shown:
    """One finding."""

    where: str
    message: str
    chart: Markup | None
    title: str
    """Of the chart."""
    pictures: list[tuple[str, Markup]]


@dataclass(frozen=True)
class Group:
    """The findings of one rule."""

    title: str
    fires: str
    why: str
    findings: list[Shown]
    more: int


def build_page(found: Profile, dataset: str) -> str:
    """The page of ``found``; ``dataset`` is what was typed to see it."""
    suspects = set(found.suspects)
    return render(
        "dataset.html",
        title=found.name,
        subtitle=amount(found),
        level="partly" if found.findings else "done",
        verdict=verdict(found),
        suspects=found.exclusion,
        facts=_facts(found),
        cameras=[
            (f"{camera.key}, {camera.width}x{camera.height}", _pictures(camera.stills)) for camera in found.cameras
        ],
        tasks=[(task_text(task.text, 1000), f"{task.episodes:,}", f"{task.frames:,}") for task in found.tasks][
            :MAX_TASKS
        ],
        more_tasks=max(len(found.tasks) - MAX_TASKS, 0),
        groups=_groups(found),
        lengths=_lengths(found),
        joints=_joints(found),
        courses=_courses(found, suspects),
        more_courses=max(len(found.courses) - MAX_COURSES, 0),
        rules=[(rule.title, plain(rule.fires), plain(rule.why)) for rule in RULES],
        commands=commands(found, dataset),
        dataset=shlex.quote(dataset),
    )


def _facts(found: Profile) -> dict[str, str]:
    facts = {"robot": found.robot} if found.robot else {}
    facts |= {"episodes": f"{len(found.episodes):,}", "frames": f"{found.frames:,}"}
    if found.fps and found.hours is not None:
        facts |= {"frame rate": f"{found.fps:g} per second", "time": duration(found.hours * 3600)}
    facts["cameras"] = "\n".join(f"{each.key} ({each.source})" for each in found.cameras) or "none"
    for kind in ("state", "action"):
        keys: dict[str, int] = {}
        for joint in found.joints:
            if joint.kind == kind:
                keys[joint.key] = keys.get(joint.key, 0) + 1
        facts[kind] = ", ".join(f"{key} ({count})" for key, count in keys.items()) or "none"
    return facts


def _pictures(stills: Sequence[Still]) -> list[tuple[str, Markup]]:
    return [(f"episode {each.episode}, frame {each.frame}", picture(each.webp, "webp")) for each in stills]


def _groups(found: Profile) -> list[Group]:
    groups, charts = [], MAX_CHARTS
    for rule, findings in by_rule(found).items():
        shown = []
        # A share of the charts for each rule: the first alone could take them all.
        for place, finding in enumerate(findings[:MAX_SHOWN]):
            chart = None
            if finding.series is not None and charts and place < MAX_CHARTS // 4:
                chart, charts = _chart(finding, finding.series), charts - 1
            title = finding.series.title if finding.series else ""
            where = "" if finding.episode is None else f"episode {finding.episode}"
            shown.append(Shown(where, finding.message, chart, title, _pictures(finding.stills)))
        more = max(len(findings) - MAX_SHOWN, 0)
        groups.append(Group(rule.title, plain(rule.fires), plain(rule.why), shown, more))
    return groups


def _chart(finding: Finding, series: Series) -> Markup:
    lines = [
        Line(thinned(list(enumerate(values)), CHART_POINTS), colour)
        for values, colour in ((series.state, None), (series.action, 0))
        if values
    ]
    values = series.state or series.action
    marked = [(float(row), values[row]) for row in finding.frames or () if 0 <= row < len(values)]
    return small_chart(lines, marked, least=MIN_RANGE)


def _lengths(found: Profile) -> Markup | None:
    if len(found.episodes) < 2:
        return None
    points = [(each.episode, each.frames) for each in found.episodes]
    return line_chart([Line(points, 0, dots=len(points) <= 100)], x="episode", y="frames", height=180)


def _joints(found: Profile) -> list[list[str | Markup]]:
    rows: list[list[str | Markup]] = []
    for name, state, action in joint_rows(found):
        unit = next((joint.unit for joint in (state, action) if joint and joint.unit), "")
        figures = [
            figure_text(value) if joint else ""
            for joint in (state, action)
            for value in ((joint.min, joint.mean, joint.max) if joint else (None,) * 3)
        ]
        rows.append([name, unit, *figures, _bars(state, action)])
    return rows


def _bars(state: Joint | None, action: Joint | None) -> Markup:
    """Both ranges on one scale: a thin line over all values, a thick one over 98 % of them."""
    joints = [joint for joint in (state, action) if joint]
    low, high = min(joint.min for joint in joints), max(joint.max for joint in joints)
    if not 0 < high - low < float("inf"):
        return Markup("")

    def at(value: float) -> float:
        return round((value - low) / (high - low) * (_WIDTH - 4) + 2, 1)

    parts = []
    for joint, colour, height in ((state, "--muted", 4), (action, "--c0", 10)):
        if joint:
            for start, end, thick in ((joint.min, joint.max, 1), (joint.q01, joint.q99, 4)):
                parts.append(_LINE.format(at(start), at(end), height, height, colour, thick))
    return Markup('<svg class="bar" viewBox="0 0 {} {}">{}</svg>').format(_WIDTH, _HEIGHT, Markup("").join(parts))


def _courses(found: Profile, suspects: set[int]) -> list[tuple[str, Markup]]:
    shown = []
    for name, episodes in list(found.courses.items())[:MAX_COURSES]:
        # What deserves a look is drawn last, over the others.
        ordered = sorted(episodes, key=lambda number: number in suspects)
        lines = [Line(_over_time(episodes[number]), 1 if number in suspects else None) for number in ordered]
        shown.append((name, small_chart(lines, least=MIN_RANGE)))
    return shown


def _over_time(values: Sequence[float]) -> list[tuple[float, float]]:
    """Over the share of the episode that has passed."""
    return [(place / max(len(values) - 1, 1), value) for place, value in enumerate(values)]
