"""A dataset in a terminal: what it holds, and what of it deserves a look."""

from __future__ import annotations

import shlex
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from flows.views.terminal import counted, duration, task_text
from trainer.data.exclusion import named_episodes, numbers_as_texts
from trainer.data.profile.model import Finding, Joint, Profile
from trainer.data.profile.rules import RULES, Rule

TASKS_SHOWN = 8
FINDINGS_SHOWN = 4
"""Of one rule."""


def amount(found: Profile) -> str:
    """``80 episodes · 47,513 frames · 26:24 at 30 fps``."""
    parts = [counted(len(found.episodes), "episode"), counted(found.frames, "frame")]
    if found.fps and found.hours is not None:
        parts.append(f"{duration(found.hours * 3600)} at {found.fps:g} fps")
    return " · ".join(parts)


def verdict(found: Profile) -> str:
    """One sentence: how many episodes deserve a look."""
    episodes = {each.episode for each in found.findings if each.episode is not None}
    whole = any(each.episode is None for each in found.findings)
    if not episodes:
        return "Nothing in a single episode stands out." if whole else "Nothing stands out."
    count = len(episodes)
    return f"{count} of {len(found.episodes)} episodes deserve{'s' if count == 1 else ''} a look."


def by_rule(found: Profile) -> dict[Rule, list[Finding]]:
    """The findings under their rules, in the rules' order."""
    groups = {rule: [each for each in found.findings if each.rule == rule.name] for rule in RULES}
    return {rule: group for rule, group in groups.items() if group}


def joint_rows(found: Profile) -> list[tuple[str, Joint | None, Joint | None]]:
    """Each joint by its name, with its state and its action."""
    rows: dict[str, dict[str, Joint]] = {}
    for joint in found.joints:
        name = joint.name if joint.name.startswith(joint.key) else f"{joint.key} {joint.name}"
        rows.setdefault(name, {})[joint.kind] = joint
    return [(name, each.get("state"), each.get("action")) for name, each in rows.items()]


def commands(found: Profile, dataset: str) -> dict[str, str]:
    """What to do next; ``dataset`` is what was typed."""
    typed = shlex.quote(dataset)
    train = f"pippa train PRESET --dataset-path {typed}"
    if not found.exclusion:
        return {"Train on it": train}
    return {"Train without what it found": f"{train} --exclude-episodes {' '.join(found.exclusion)}"}


def as_document(found: Profile) -> dict[str, Any]:
    """The same for programs."""
    document = found.model_dump(mode="json")
    rules = {rule.name: {"fires": rule.fires, "why": rule.why, "excludes": rule.excludes} for rule in RULES}
    return {**document, "hours": found.hours, "exclude_episodes": found.exclusion, "rules": rules}


def print_profile(console: Console, found: Profile, dataset: str) -> None:
    """Everything but the pictures, in 80 columns."""
    robot = f"  [dim]{escape(found.robot)}[/]" if found.robot else ""
    console.print(f"[bold]{escape(found.name)}[/]{robot}")
    console.print(amount(found))
    for camera in found.cameras:
        console.print(f"camera {escape(camera.key)}, {camera.width}x{camera.height}")
    if not found.cameras:
        console.print("no camera")
    _print_tasks(console, found)
    _print_joints(console, found)
    _print_findings(console, found)
    for title, line in commands(found, dataset).items():
        console.print(f"\n{title}:")
        # Not wrapped: it is to be copied.
        console.print(f"  [bold]{escape(line)}[/]", soft_wrap=True)


def _columns(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left", no_wrap=bool(index), overflow="fold")
    return table


def _print_tasks(console: Console, found: Profile) -> None:
    table = _columns("task", "episodes", "frames")
    for task in found.tasks[:TASKS_SHOWN]:
        table.add_row(escape(task_text(task.text)), f"{task.episodes:,}", f"{task.frames:,}")
    console.print()
    console.print(table)
    if (more := len(found.tasks) - TASKS_SHOWN) > 0:
        console.print(f"[dim]and {more:,} more[/]")


def _print_joints(console: Console, found: Profile) -> None:
    table = _columns("joint", "state from", "to", "action from", "to")
    rows = joint_rows(found)
    moving = [row for row in rows if any(joint and joint.moves for joint in row[1:])]
    for name, state, action in moving:
        unit = next((joint.unit for joint in (state, action) if joint and joint.unit), "")
        ends = [f"{value:.4g}" if joint else "" for joint in (state, action) for value in _ends(joint)]
        table.add_row(escape(f"{name} ({unit})" if unit else name), *ends)
    console.print()
    console.print(table)
    if still := len(rows) - len(moving):
        console.print(f"[dim]and {still} that never move{'s' if still == 1 else ''}[/]")


def _ends(joint: Joint | None) -> tuple[float, float]:
    return (joint.min, joint.max) if joint else (0.0, 0.0)


def _print_findings(console: Console, found: Profile) -> None:
    mark = "[yellow]![/]" if found.findings else "[green]✓[/]"
    console.print(f"\n{mark} [bold]{escape(verdict(found))}[/]")
    for rule, group in by_rule(found).items():
        console.print(f"\n[bold]{escape(rule.title)}[/]")
        for finding in group[:FINDINGS_SHOWN]:
            where = "" if finding.episode is None else f"episode {finding.episode}: "
            console.print(_indented(f"{where}{escape(finding.message)}"))
        if rest := group[FINDINGS_SHOWN:]:
            numbers = numbers_as_texts(each.episode for each in rest if each.episode is not None)
            where = f", in {named_episodes(numbers)}" if numbers else ""
            console.print(_indented(f"[dim]and {len(rest)} more{where}[/]"))
        console.print(_indented(f"[dim]The rule: {escape(plain(rule.fires))}.[/]"))


def _indented(markup: str) -> Padding:
    return Padding(markup, (0, 0, 0, 2))


def plain(text: str) -> str:
    """``text`` of a rule without the marks of Markdown."""
    return text.replace("`", "")
